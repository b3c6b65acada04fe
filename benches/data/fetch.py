"""How fast `fetch` downloads beside curl, over loopback, from one server that costs nearly nothing (sendfile).

    cargo build --release && python3 benches/data/fetch.py [GIB]

Both write to the same disk. `fetch` is timed from the start of its step to the arrival of the last byte, its own hashing
included; the whole `repro make` is next to it: it also hashes what it stores and waits until it is on the disk, which
curl does not. It does not measure a network.
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
            f'(default_profile: "p", profiles: [(name: "p", about: "", sources: [], defaults: {{}})],'
            f' steps: [(name: "get", stage: "fetch", params: (name: "file.bin", url: ["{url}"]))],'
            f' targets: {{"all": ["get"]}})'
        )
        curl, stage, whole = [], [], []
        for _ in range(ROUNDS):
            since = time.perf_counter()
            subprocess.run(["curl", "-sf", "-o", folder / "curl.bin", url], check=True)
            curl.append(time.perf_counter() - since)
            os.remove(folder / "curl.bin")
            since = time.perf_counter()
            command = [PROGRAM, "make", "--json", "--force", "get"]
            began = arrived = None
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
                for line in run.stdout:
                    event = json.loads(line)
                    if event["event"] == "started":
                        began = time.perf_counter()
                    if event["event"] == "progress" and event["done"] == event["total"]:
                        arrived = time.perf_counter()
            assert run.returncode == 0
            whole.append(time.perf_counter() - since)
            stage.append(arrived - began)
        rate = lambda times: size / statistics.median(times) / 1e6
        print(f"{size / 1e6:.0f} MB, medians of {ROUNDS}, {os.cpu_count()} CPUs")
        for name, times in [("curl", curl), ("fetch", stage), ("repro make, whole", whole)]:
            print(f"{name:20} {rate(times):8.0f} MB/s   {rate(times) / rate(curl):.2f} x curl")


main()
