"""Graphs that several chains of a rank run: each file is loaded once, and within a memory budget those used last stay loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..pipeline.packet import Array
from .engine import Engine

Opener = Callable[[tuple[str, ...]], Engine]
"""Loads a graph with the outputs of these names."""


class GraphPool:
    """Used by one thread. Graphs are registered first (`graph`), and loaded by `load_all` or when they run."""

    def __init__(self, max_bytes: int | None = None) -> None:
        """`max_bytes` bounds the files of the loaded graphs together, but for a single one that is larger; None: no bound."""
        self._max_bytes = max_bytes
        self._graphs: dict[str, PooledGraph] = {}
        self._loaded: dict[str, PooledGraph] = {}
        """In the order of their last use."""

    def graph(self, file: str, num_bytes: int, outputs: Sequence[str], opener: Opener) -> PooledGraph:
        """The graph in `file`, of so many bytes: the same for all that name it, loaded with the outputs of all of them."""
        graph = self._graphs.setdefault(file, PooledGraph(self, file, num_bytes, opener))
        graph.want(outputs)
        return graph

    def load_all(self) -> None:
        """Load every graph, as far as the budget goes. Raises EngineError."""
        free = self._max_bytes
        for graph in self._graphs.values():
            if free is None or graph.num_bytes <= free:
                graph.engine()
                free = None if free is None else free - graph.num_bytes

    @property
    def num_bytes(self) -> int:
        """Of the files of all graphs."""
        return sum(graph.num_bytes for graph in self._graphs.values())

    def used(self, graph: PooledGraph) -> None:
        """The graph is about to run: others that were used longer ago make room for it."""
        self._loaded.pop(graph.file, None)
        if self._max_bytes is not None:
            while self._loaded and graph.num_bytes + sum(g.num_bytes for g in self._loaded.values()) > self._max_bytes:
                next(iter(self._loaded.values())).close()
        self._loaded[graph.file] = graph

    def closed(self, graph: PooledGraph) -> None:
        """The graph is not loaded any more."""
        self._loaded.pop(graph.file, None)


class PooledGraph:
    """An engine (`engine.py`) whose graph is loaded when it runs, if it is not loaded already."""

    def __init__(self, pool: GraphPool, file: str, num_bytes: int, opener: Opener) -> None:
        self.file = file
        self.num_bytes = num_bytes
        self._pool = pool
        self._opener = opener
        self._outputs: tuple[str, ...] = ()
        self._engine: Engine | None = None
        self.name = ""
        """See `Engine`; empty before the graph is first loaded, as is the precision."""
        self.precision = ""

    def want(self, outputs: Sequence[str]) -> None:
        """Somebody needs these outputs. Only before it is loaded."""
        assert self._engine is None
        self._outputs = tuple(dict.fromkeys((*self._outputs, *outputs)))

    def engine(self) -> Engine:
        """What runs it, loaded. Raises EngineError."""
        self._pool.used(self)
        if self._engine is None:
            self._engine = self._opener(self._outputs)
            self.name, self.precision = self._engine.name, self._engine.precision
        return self._engine

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`."""
        return self.engine().run(inputs, outputs, targets)

    def close(self) -> None:
        """Free the graph. It is loaded again if it runs again; harmless when called twice."""
        engine, self._engine = self._engine, None
        self._pool.closed(self)
        if engine is not None:
            engine.close()
