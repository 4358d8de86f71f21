"""A short message now and then between two hosts. `far` answers each; `near` prints how long each took to and fro, ms."""

import socket
import sys
import time

NUM_MESSAGES, NUM_BYTES, PORT = 8, int(sys.argv[2]), 7000
if sys.argv[1] == "far":
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
        for _ in range(NUM_MESSAGES):
            peer.recv(NUM_BYTES, socket.MSG_WAITALL)
            peer.sendall(b"1")
else:
    peer = socket.create_connection(("workstation", PORT), 5)
    for _ in range(NUM_MESSAGES):
        time.sleep(0.2)
        begin = time.monotonic()
        peer.sendall(bytes(NUM_BYTES))
        peer.recv(1)
        print(1e3 * (time.monotonic() - begin))
