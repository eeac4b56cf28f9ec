"""What is done to the nodes of a NATS cluster; one at a time is gone, as three replicas bear."""

import os
import random
import signal
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.soak.plan import Strike
from speechbus_contracts import JOBS_STORE, TRANSCRIPT_STORE, audio_stream_name
from tests.support.nats_cluster import NatsCluster

__all__ = ["NodeStriker"]

SHARDS: Final = 4


class NodeStriker:
    """Strikes nodes and brings them back. All calls block.

    Args:
        cluster: runs.
        audio_replicas: of the stores of audio; the others have three.
    """

    def __init__(self, cluster: NatsCluster, *, audio_replicas: int) -> None:
        self._cluster = cluster
        audio = [audio_stream_name(shard) for shard in range(SHARDS)]
        self._stores = [TRANSCRIPT_STORE, JOBS_STORE, *audio]
        self._replicated = self._stores if audio_replicas > 1 else self._stores[:2]

    def choose(self, strike: Strike) -> int:
        """Return the node that a strike is for."""
        return int(strike.target * len(self._cluster.nodes))

    def strike(self, strike: Strike, node: int) -> None:
        """Do it; what is gone afterwards is back again."""
        cluster = self._cluster
        match strike.kind:
            case "node_freeze":
                os.kill(cluster.nodes[node].pid, signal.SIGSTOP)
                time.sleep(strike.away_s)
                os.kill(cluster.nodes[node].pid, signal.SIGCONT)
            case "node_cut":
                cluster.cut(node)
                time.sleep(strike.away_s)
                cluster.heal(node)
            case "leader_step_down":
                for store in self._draw_stores(strike):
                    cluster.step_down(store, to=node)
            case "nodes_restart":
                for index in range(len(cluster.nodes)):
                    cluster.drain(index)
                    cluster.nodes[index].start()
                    self.wait_until_whole()
            case _:
                cluster.nodes[node].kill()
                time.sleep(strike.away_s)
                cluster.nodes[node].start()

    def wait_until_whole(self) -> None:
        """Return when each node has all that is replicated: now another one may go.

        Raises:
            NatsServerError: that does not happen.
        """
        self._cluster.wait_until_current(*self._replicated)

    def _draw_stores(self, strike: Strike) -> Sequence[str]:
        draw = random.Random(f"{strike.at_s}")
        return draw.sample(self._replicated, draw.randint(1, len(self._replicated)))
