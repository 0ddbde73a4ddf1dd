"""A Ray cluster of several nodes on this machine. Runs in Ray's own environment.

    python ray_nodes.py SOCKET DASHBOARD_PORT

Says one line when it is there. Then it obeys lines sent to the socket, each answered by one: `add CPUS GPUS`
adds a node and answers with its number, `kill NUMBER` kills one as a machine dies, `restart` takes the whole
cluster down and starts another at the same port. It ends with its standard input; its files lie in RAY_TMPDIR
"""

import os
import socketserver
import sys
import threading

from ray.cluster_utils import Cluster

# Nodes choose ports of their own: another cluster of this machine has those that Ray would take.
SMALL = {"object_store_memory": 80 << 20, "memory": 2 << 30, "dashboard_agent_listen_port": 0}
NODE_COUNT = 3


class Nodes:
    def __init__(self, dashboard_port: int) -> None:
        self.dashboard_port = dashboard_port
        self.start()

    def start(self) -> None:
        os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True)
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 4,
                "include_dashboard": True,
                "dashboard_host": "127.0.0.1",
                "dashboard_port": self.dashboard_port,
                **SMALL,
            },
        )
        self.nodes = [self.cluster.add_node(num_cpus=4, wait=False, **SMALL) for _ in range(NODE_COUNT - 1)]
        self.cluster.wait_for_nodes()

    def obey(self, words: list[str]) -> str:
        if words[0] == "add":
            self.nodes.append(
                self.cluster.add_node(num_cpus=int(words[1]), num_gpus=int(words[2]), wait=True, **SMALL)
            )
            return str(len(self.nodes) - 1)
        if words[0] == "kill":
            self.nodes[int(words[1])].kill_raylet()
            return "killed"
        assert words[0] == "restart", words
        self.stop()
        self.start()
        return "restarted"

    def stop(self) -> None:
        self.cluster.shutdown()


def main() -> None:
    nodes = Nodes(int(sys.argv[2]))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(nodes.obey(self.rfile.readline().decode().split()).encode())

    server = socketserver.UnixStreamServer(sys.argv[1], Handler)

    def until_told() -> None:
        sys.stdin.read()
        server.shutdown()

    threading.Thread(target=until_told, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)  # here: Ray starts nodes from the main thread only
    nodes.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
