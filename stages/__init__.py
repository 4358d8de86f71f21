"""What a rank computes, in frame order: source, preprocess, network, codec, postprocess, sink."""
