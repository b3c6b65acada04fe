"""How fast `fetch` downloads beside curl, over loopback, from one server that costs nearly nothing (sendfile).

    cargo build --release && python3 benches/data/fetch.py [GIB]

Both write to the same disk. The stage is timed by its own record, and the whole `repro make` beside it, which also hashes
what it keeps. It does not measure a network.
"""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM = pathlib.Path(__file__).parents[2] / "target/release/repro"
ROUNDS = 5


def serve(path):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(stream):
        while b"\r\n\r\n" not in stream.recv(65536):
            pass
        size = os.path.getsize(path)
        head = f"HTTP/1.1 200 OK\r\nconnection: close\r\netag: \"1\"\r\ncontent-length: {size}\r\n\r\n"
        stream.sendall(head.encode())
        with open(path, "rb") as file:
            stream.sendfile(file)
        stream.close()

    def accept():
        while True:
            answer(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin"


def main():
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * (1 << 30))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        folder = pathlib.Path(folder)
        served = folder / "served.bin"
        block = os.urandom(1 << 24)
        with open(served, "wb") as file:
            for at in range(0, size, len(block)):
                file.write(block[: min(len(block), size - at)])
        url = serve(served)
        (folder / "pipeline.ron").write_text(
            f'(default_profile: "p", profiles: [(name: "p", about: "", sources: [], defaults: [])],'
            f' steps: [(name: "get", stage: "fetch", params: (name: "file.bin", url: ["{url}"]))],'
            f' targets: [("all", ["get"])])'
        )
        curl, stage, whole = [], [], []
        for _ in range(ROUNDS):
            since = time.perf_counter()
            subprocess.run(["curl", "-sf", "-o", folder / "curl.bin", url], check=True)
            curl.append(time.perf_counter() - since)
            os.remove(folder / "curl.bin")
            since = time.perf_counter()
            run = subprocess.run(
                [PROGRAM, "make", "--json", "--force", "get"], cwd=folder, check=True, capture_output=True, text=True
            )
            whole.append(time.perf_counter() - since)
            events = [json.loads(line) for line in run.stdout.splitlines()]
            stage.append(next(event["seconds"] for event in events if event["event"] == "finished"))
        rate = lambda times: size / statistics.median(times) / 1e6
        print(f"{size / 1e6:.0f} MB, medians of {ROUNDS}, {os.cpu_count()} CPUs")
        for name, times in [("curl", curl), ("fetch, the step", stage), ("repro make, whole", whole)]:
            print(f"{name:20} {rate(times):8.0f} MB/s   {rate(times) / rate(curl):.2f} x curl")


main()
