#!/usr/bin/env python3
"""Exports a finished run in every form a tracker or an archive takes, and reads each back with the real tool:

    python3 -m venv VENV; VENV/bin/pip install tensorboard mlflow wandb roc-validator rocrate==0.13.0
    VENV/bin/python tests/export/read_back.py target/release/repro hmd-pe-train report

The two names are a step that trains, or a command that reports metrics, and the step whose crate is made; both must be up
to date. `--command` builds a project with such a command and reads back what the trackers get of it:

    VENV/bin/python tests/export/read_back.py target/release/repro --command

What is compared: every value of the run's history and evaluations, its settings and times; that a second export is the same bytes; that no tool
says a word of warning. MLflow's own server is started on a free port; then it is away. No network is needed: what the
validator would fetch, RO-Crate's context, comes from the package `rocrate`, whose version 0.13 has the one of RO-Crate 1.1.
"""

import json, math, os, pathlib, re, socket, subprocess, sys, tempfile, time, urllib.error, urllib.parse, urllib.request, warnings

warnings.simplefilter("error")
REPRO = os.path.abspath(sys.argv[1])
IS_COMMAND = sys.argv[2:] == ["--command"]
RUN, STEP = ("train", "train") if IS_COMMAND else sys.argv[2:4]
TOOLS = pathlib.Path(sys.executable).parent
WORD = re.compile("warn|error|traceback|corrupt|invalid", re.IGNORECASE)


def repro(*words, code=0, **variables):
    done = subprocess.run([REPRO, *words], capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == code, (words, done.returncode, done.stderr)
    return done.stdout if code == 0 else done.stderr


def show(step):
    return json.loads(repro("show", step, "--json"))


def same(ours, theirs, digits=15):
    both_none = math.isnan(ours) and math.isnan(theirs)
    assert both_none or math.isclose(ours, theirs, rel_tol=10.0 ** -digits, abs_tol=0.0), (ours, theirs)


# A command with a curve that has a hole, a curve of few points, and a final metric.
COMMAND = """(steps: [(name: "train", stage: "command", inputs: {"script": "./train.py"}, params: (
    run: ["python3", "{input.script}", "{args.lr}", "{out}/metrics.json"], args: {"lr": 0.25}, outputs: ["metrics.json"]))])"""
SCRIPT = """import json, os, sys
with open(os.environ["REPRO_METRICS"], "a") as metrics:
    for step in range(1, 101):
        loss = float("nan") if step == 7 else float(sys.argv[1]) / step
        values = {"step": step, "total": 100, "train": {"loss": loss}}
        metrics.write(json.dumps({**values, "val/auc": step / 200} if step % 10 == 0 else values) + "\\n")
json.dump({"auc": 0.5, "n": {"test": 40}}, open(sys.argv[2], "w"))
"""


def command_run():
    """What a command reported, from its script."""
    loss = [(step, math.nan if step == 7 else 0.25 / step) for step in range(1, 101)]
    about = show(RUN)
    record = about["result"]["record"]
    return {"curves": {"train/loss": loss, "val/auc": [(step, step / 200) for step in range(10, 101, 10)]},
            "finals": {"metrics/auc": 0.5, "metrics/n/test": 40.0}, "best": 100, "shown": "val/auc",
            "settings": {"args.lr": "0.25"}, "key": about["key"], "begin": record["started_ms"], "seconds": record["seconds"]}


def the_run():
    """What the run's own files say: curves by name as [(update, value)], finals by name."""
    if IS_COMMAND:
        return command_run()
    result = show(RUN)["result"]
    history = json.loads((pathlib.Path(result["folder"]) / "history.json").read_text())
    none = lambda value: math.nan if value is None else value
    curves = {}
    for part, names in (("train", ["loss", "loss_average", "lr"]), ("val", ["loss", "roc_auc", "accuracy", "f1"])):
        for name in names:
            curves[f"{part}/{name}"] = [(point["update"], none(point[name])) for point in history[part]]
    finals = {f"best/{name}": none(value) for name, value in history["best"].items()}
    for step in json.loads(repro("list", "--json"))["steps"]:
        about = show(step["name"])
        reads = any(i["port"] == "run" and i["source"] == RUN for i in about["inputs"])
        if about["stage"] == "evaluate" and reads and about["result"] and about["result"]["current"]:
            found = json.loads((pathlib.Path(about["result"]["folder"]) / "metrics.json").read_text())
            for name in ("loss", "roc_auc", "accuracy", "f1", "average_precision", "balanced_accuracy", "calibration_error"):
                finals[f"{step['name']}/{name}"] = found[name]
    record = result["record"]
    settings = {"mode": history["run"]["mode"], "parameters.trained": history["parameters"]["trained"]}
    return {"curves": curves, "finals": finals, "best": history["best"]["update"], "shown": "val/roc_auc",
            "settings": settings, "key": show(RUN)["key"], "begin": record["started_ms"], "seconds": record["seconds"]}


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def export(form, folder):
    """Exports twice, expects the same bytes, and says where the first is."""
    said = repro("export", RUN, "--to", form, "--out", str(folder / form)).strip()
    repro("export", RUN, "--to", form, "--out", str(folder / f"{form}-again"))
    assert bytes_below(folder / form) == bytes_below(folder / f"{form}-again"), form
    return said


def tensorboard(run, folder):
    export("tensorboard", folder)
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard" / RUN), size_guidance={"tensors": 0})
    events.Reload()
    values = {tag: [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)]
              for tag in events.Tags()["tensors"] if not tag.startswith("_hparams_")}
    values.update({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
    wanted = {**run["curves"], **{name: [(run["best"], value)] for name, value in run["finals"].items()}}
    assert values.keys() == wanted.keys(), values.keys() ^ wanted.keys()
    for name, points in wanted.items():
        assert [at for at, _ in points] == [at for at, _ in values[name]], name
        for (_, ours), (_, theirs) in zip(points, values[name]):
            same(ours, theirs, 6)
    data = lambda tag: plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)
    start = data("session_start_info").session_start_info
    for name, value in run["settings"].items():
        assert value in (start.hparams[name].string_value, start.hparams[name].number_value), name
    same(start.start_time_secs, run["begin"] / 1e3)
    assert data("session_end_info").session_end_info.status == 1
    # The server itself, with its loader in Rust: what it shows, and what it says meanwhile.
    port = free_port()
    log = folder / "tensorboard.log"
    server = start_server([TOOLS / "tensorboard", "--logdir", folder / "tensorboard", "--port", str(port)], log)
    try:
        scalar = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run={RUN}&tag={urllib.parse.quote(run['shown'], safe='')}"
        shown = json.loads(get(scalar, patience=60))
        assert [at for _, at, _ in shown] == [at for at, _ in run["curves"][run["shown"]]], shown
        [same(ours, theirs, 6) for (_, ours), (_, _, theirs) in zip(run["curves"][run["shown"]], shown)]
        question = {"experimentName": "", "startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_SUCCESS"]}
        answer = json.loads(get(f"http://127.0.0.1:{port}/data/plugin/hparams/session_groups", question, patience=60))
        hparams = answer["sessionGroups"][0]["hparams"]
        assert all(hparams[name] == value for name, value in run["settings"].items()), answer
    finally:
        stop(server)
    quiet("tensorboard", log.read_text())


def wandb(run, folder):
    at = export("wandb", folder)
    inspect = lambda *words: tool("wandb", "leet", "inspect", "--json", *words, at)
    records = [json.loads(line) for line in inspect().splitlines()]
    rows = {record["history"]["item"]["_step"]: record["history"]["item"] for record in records if "history" in record}
    for name, points in run["curves"].items():
        for update, value in points:
            theirs = rows[update][name]
            same(value, math.nan if theirs in (None, "NaN") else theirs)
    last = max(rows)
    assert abs(rows[last]["_timestamp"] - (run["begin"] / 1e3 + run["seconds"])) < 2e-3, rows[last]
    summary = json.loads(inspect("--summary"))
    assert summary["state"] == "finished" and summary["exit_code"] == 0, summary
    assert summary["name"] == RUN and summary["step"] == last and summary["run_id"] == run["key"][:8], summary
    for name, value in run["finals"].items():
        same(value, summary["summary"][name])
    assert all(summary["config"][name] == value for name, value in run["settings"].items()), summary["config"]
    assert summary["config"]["repro.key"] == run["key"]
    said = tool("wandb", "sync", "--dry-run", at)
    assert "Would sync 1 run" in said, said


def mlflow(run, folder):
    port = free_port()
    log = folder / "mlflow.log"
    address = f"http://127.0.0.1:{port}"
    server = start_server([TOOLS / "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
                           f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts"], log)
    try:
        get(f"{address}/health", patience=180)
        variables = {"MLFLOW_TRACKING_URI": address, "MLFLOW_EXPERIMENT_NAME": "memes & more"}
        said = repro("export", RUN, "--to", "mlflow", **variables)
        assert said == repro("export", RUN, "--to", "mlflow", "--out", address, **variables), "a run is sent once"
        os.environ.update(variables, MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # Importing the client warns of itself.
            from mlflow.tracking import MlflowClient
        client = MlflowClient()
        experiment = client.get_experiment_by_name("memes & more")
        found = client.search_runs([experiment.experiment_id])
        assert len(found) == 1, found
        info, data = found[0].info, found[0].data
        assert said.strip().endswith(f"/#/experiments/{experiment.experiment_id}/runs/{info.run_id}"), said
        assert (info.status, info.run_name, info.start_time) == ("FINISHED", RUN, run["begin"]), info
        assert abs(info.end_time - run["begin"] - run["seconds"] * 1e3) <= 1, info
        assert data.tags["repro.key"] == run["key"]
        assert all(data.params[name] == str(value) for name, value in run["settings"].items()), data.params
        wanted = {**run["curves"], **{name: [(run["best"], value)] for name, value in run["finals"].items()}}
        assert data.metrics.keys() == wanted.keys(), data.metrics.keys() ^ wanted.keys()
        for name, points in wanted.items():
            theirs = sorted((m.step, m.value) for m in client.get_metric_history(info.run_id, name))
            assert [at for at, _ in theirs] == [at for at, _ in points], name
            [same(ours, value) for (_, ours), (_, value) in zip(points, theirs)]
    finally:
        stop(server)
    said = repro("export", RUN, "--to", "mlflow", "--out", address, code=1, MLFLOW_TRACKING_TOKEN="s3cret")
    assert "is it running" in said and "s3cret" not in said, said


# The validator's command line, with one address answered from a file.
VALIDATOR = """
import importlib.resources, io, requests
from rocrate_validator.cli import cli
from rocrate_validator.utils.document_loader import install_document_loader
def answer(self, request, **_):
    assert request.url == "https://w3id.org/ro/crate/1.1/context", request.url
    found = requests.Response()
    found.status_code, found.url, found.request = 200, request.url, request
    found.headers["content-type"] = "application/ld+json"
    found.raw = io.BytesIO((importlib.resources.files("rocrate") / "data" / "ro-crate.jsonld").read_bytes())
    return found
requests.adapters.HTTPAdapter.send = answer
install_document_loader()
cli()
"""


def ro_crate(run, folder):
    for name in ("crate", "crate-again"):
        repro("export", STEP, "--to", "ro-crate", "--out", str(folder / name))
    assert bytes_below(folder / "crate") == bytes_below(folder / "crate-again")
    report = folder / "report.json"
    for profile in ("ro-crate-1.1", "process-run-crate-0.5", "workflow-run-crate-0.5", "provenance-run-crate-0.5"):
        tool("python", "-c", VALIDATOR, "--no-interactive", "validate", "--no-cache", "--no-auto-profile",
             "--profile-identifier", profile, "--output-format", "json", "--output-file", report, folder / "crate")
        found = json.loads(report.read_text())
        assert found["passed"] and not found["issues"], (profile, found["issues"])
    graph = json.loads((folder / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph), "every entity is told of once"
    action = entities[f"#run-{STEP}"]
    assert action["identifier"] == f"repro key {show(STEP)['key']}", action
    result = folder / "crate" / action["result"]["@id"]
    assert bytes_below(result) == bytes_below(pathlib.Path(show(STEP)["result"]["folder"]))


def tool(name, *words):
    done = subprocess.run([TOOLS / name, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, (name, words, done.stdout, done.stderr)
    quiet(name, done.stderr)
    return done.stdout + done.stderr if name == "wandb" and "sync" in words else done.stdout


def quiet(name, text):
    loud = [line for line in text.splitlines() if WORD.search(line)]
    assert not loud, (name, loud)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(command, log):
    with open(log, "wb") as file:
        variables = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        return subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, env=variables, start_new_session=True)


def stop(server):
    os.killpg(server.pid, 15)
    server.wait()


def get(address, body=None, patience=0):
    end = time.monotonic() + patience
    while True:
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(address, data, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


with tempfile.TemporaryDirectory() as name:
    if IS_COMMAND:
        project = pathlib.Path(name) / "project"
        project.mkdir()
        (project / "pipeline.ron").write_text(COMMAND)
        (project / "train.py").write_text(SCRIPT)
        os.chdir(project)
        repro("make")
    run = the_run()
    assert "name a step that runs `train`" in repro("export", STEP, "--to", "mmf", "--out", f"{name}/x", code=2)
    for form in (tensorboard, wandb, mlflow) if IS_COMMAND else (tensorboard, wandb, mlflow, ro_crate):
        form(run, pathlib.Path(name))
        print(f"{form.__name__}: as the run has it")
