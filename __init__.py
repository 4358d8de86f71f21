"""Cut an object detector between an edge device and a workstation and stream video through it over MPI."""

__version__ = "0.1.0"
