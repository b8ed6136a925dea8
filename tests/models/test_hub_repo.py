"""`--model` with a folder or a repository in timm's format."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load, save
from timm.models import save_for_hf

import weight_server as serve
from effnet_cli.bench.prepare import prepare_file
from effnet_cli.models import build, download
from effnet_cli.models.hub_repo import HubRepo, make_absolute, parse_repo
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cache_dir
from effnet_cli.system.reporter import SILENT
from helpers import SAMPLES, lively
from hub_server import repository, small
from training import HEAD_ONLY, CommandResult, FinishedRun, RunWith, resume
from weight_server import WeightServer

pytestmark = pytest.mark.usefixtures("one_core", "one_thread")

LABELS = ["cat", "dog", "red"]
CONFIG_FILES = "model.safetensors", "config.json"


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for 64 px as timm saves it."""
    folder = tmp_path_factory.mktemp("from timm")
    torch.manual_seed(0)
    module = lively(timm.create_model("tf_efficientnet_lite0", num_classes=len(LABELS)))
    save_for_hf(
        module,
        str(folder),
        model_config={"label_names": LABELS},
        data_config={"input_size": (3, 64, 64), "crop_pct": 1.0},
        safe_serialization="both",
    )
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`hub(folder)` puts a folder into the cache as revision `main` of `me/ants`."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "library"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))

    def put(folder: Path, revision: str = "main") -> Path:
        there = cache_dir() / "hub" / "me--ants" / revision
        there.mkdir(parents=True)
        for name in CONFIG_FILES:
            if (folder / name).exists():
                shutil.copy(folder / name, there)
        return Path("hf://me/ants" if revision == "main" else f"hf://me/ants@{revision}")

    return put


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/ants", HubRepo("me/ants")),
        ("hf:/me/ants", HubRepo("me/ants")),
        ("hf-hub:me/ants", HubRepo("me/ants")),
        ("hf_hub:me/ants@v1.0", HubRepo("me/ants", "v1.0")),
        ("hf://me/ants@refs/pr/1", HubRepo("me/ants", "refs/pr/1")),
        ("HF://me/ants", HubRepo("me/ants")),
        ("hf://me/ants@", HubRepo("me/ants", "")),
        ("hf://", HubRepo("")),
        ("me/ants", None),
        ("/somewhere/hf:/me/ants", None),
        ("hf", None),
        (".", None),
    ],
)
def test_repositories_are_told_from_paths(text: str, expected: HubRepo | None) -> None:
    assert parse_repo(Path(text)) == expected
    given = ModelOptions.parse(text) if "/" in text else ModelOptions(model=Path(text))
    assert given.model is not None
    assert parse_repo(given.model) == expected
    if expected is not None:
        assert parse_repo(Path(str(expected))) == expected
        assert parse_repo(make_absolute(Path(text))) == expected
    else:
        assert make_absolute(Path(text)).is_absolute()


def read_logits(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return build.load_module(model)(torch.ones(1, 3, 64, 64))


@pytest.mark.linux
def test_folder_of_timm_is_a_model(timm_folder: Path, tmp_path: Path) -> None:
    link, weights = tmp_path / "folder", tmp_path / "weights"
    link.symlink_to(timm_folder)
    weights.symlink_to(timm_folder / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    for path in (timm_folder, timm_folder / "model.safetensors", link, weights):
        model = resolve_model(ModelOptions(model=path))
        assert (model.variant.name, model.card.classes) == ("lite0.tf", tuple(LABELS))
        assert model.card.preprocessing.crop_px == 64
        with torch.inference_mode():
            assert torch.equal(read_logits(model), theirs(torch.ones(1, 3, 64, 64)))
    assert prepare_file(timm_folder, SILENT).outputs == len(LABELS)


def test_classifier_takes_a_folder_of_timm(timm_folder: Path) -> None:
    classifier = Classifier(ModelOptions(model=timm_folder))
    (row,) = classifier.predict([str(SAMPLES / "cat.jpg")])
    assert {one.label for one in row.predictions} == set(LABELS)


def test_folder_without_config_is_no_model(timm_folder: Path, tmp_path: Path) -> None:
    shutil.copy(timm_folder / "model.safetensors", tmp_path)
    with pytest.raises(UsageError, match="no effnet header"):
        resolve_model(ModelOptions(model=tmp_path))


def test_folder_with_a_pickle_needs_the_other_option(timm_folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "config.json"):
        shutil.copy(timm_folder / name, tmp_path)
    with pytest.raises(UsageError, match="no model") as caught:
        resolve_model(ModelOptions(model=tmp_path))
    assert caught.value.hint == f"Use --weights {tmp_path / 'pytorch_model.bin'}"
    assert resolve_model(ModelOptions(weights=tmp_path / "pytorch_model.bin")).is_described


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_repository_is_a_model(revision: str, timm_folder: Path, hub: Callable[..., Path]) -> None:
    options = ModelOptions(model=hub(timm_folder, revision), offline=True)
    model, same = resolve_model(options), resolve_model(ModelOptions(model=timm_folder))
    assert (model.card, model.sha256) == (same.card, same.sha256)
    assert torch.equal(read_logits(model), read_logits(same))


# --- files of one commit ------------------------------------------------------------------------


WEIGHTS, CONFIG = CONFIG_FILES
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def versions(timm_folder: Path) -> tuple[Files, Files]:
    """The files of a repository before and after its classes were reordered."""
    old = {name: (timm_folder / name).read_bytes() for name in CONFIG_FILES}
    tensors = load(old[WEIGHTS])
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0)
    config = json.loads(old[CONFIG])
    config["label_names"].reverse()
    return old, {WEIGHTS: save(tensors), CONFIG: json.dumps(config).encode()}


@pytest.fixture
def remote(
    hub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., WeightServer]]:
    """`remote({name: content}, ...)` makes the commits of `me/ants` those given."""
    monkeypatch.setenv("EFFNET_MIRROR", "")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    with WeightServer(b"") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)

        def publish(*commits: Files) -> WeightServer:
            server.requests.clear()
            server.responses = (repository(*commits),)
            return server

        yield publish


def load_repository(*, offline: bool = False) -> Model:
    return resolve_model(ModelOptions(model=Path("hf://me/ants"), offline=offline))


def read_version(model: Model, versions: tuple[Files, Files]) -> int:
    """Return the version that the model is of, and check that both of its files are."""
    config = model.path.with_name(CONFIG).read_bytes()
    version = [files[WEIGHTS] for files in versions].index(model.path.read_bytes())
    assert config == versions[version][CONFIG]
    assert model.card.classes == tuple(json.loads(config)["label_names"])
    return version


def test_second_file_is_of_the_commit_of_the_first(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    remote(old).responses = (repository(old), serve.status(403))
    with pytest.raises(EffnetError, match="403"):
        load_repository()
    server = remote(old, new)
    assert read_version(load_repository(), versions) == 0
    assert [one.path.split("/")[-2:] for one in server.requests] == [["1", CONFIG]]
    assert read_version(load_repository(offline=True), versions) == 0


def test_config_that_was_added_later_replaces_the_weights(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    remote({WEIGHTS: old[WEIGHTS]})
    with pytest.raises(EffnetError, match=r"There is no 'config\.json' in me/ants"):
        load_repository()
    remote({WEIGHTS: old[WEIGHTS]}, new)
    assert read_version(load_repository(), versions) == 1
    assert read_version(load_repository(offline=True), versions) == 1


@pytest.mark.parametrize("damaged", CONFIG_FILES)
def test_damaged_file_is_replaced_by_one_of_the_same_commit(
    damaged: str, versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    remote(old)
    load_repository().path.with_name(damaged).write_bytes(b"damaged")
    remote(old, new)
    load_repository()
    expected = 0 if damaged == CONFIG else 1
    assert read_version(load_repository(offline=True), versions) == expected


@pytest.mark.parametrize("damaged", CONFIG_FILES)
def test_files_of_unknown_commits_are_only_combined_with_each_other(
    damaged: str,
    versions: tuple[Files, Files],
    remote: Callable[..., WeightServer],
    hub: Callable[..., Path],
    timm_folder: Path,
) -> None:
    old, new = versions
    hub(timm_folder)
    remote(old, new)
    model = load_repository()  # nothing is recorded about these files
    assert read_version(model, versions) == 0
    model.path.with_name(damaged).write_bytes(b"damaged")
    assert read_version(load_repository(), versions) == 1


def test_files_of_different_commits_are_refused_offline(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    remote(old, new)
    path = load_repository().path
    record = path.with_name(f"{WEIGHTS}.sha256")
    record.write_text(record.read_text().replace(" 2", " 1"))
    with pytest.raises(EffnetError, match=r"'config\.json' of me/ants is of another commit"):
        load_repository(offline=True)


def test_server_without_commits_is_accepted(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    server = remote()
    server.responses = tuple(small(versions[0][name]) for name in CONFIG_FILES)
    assert read_version(load_repository(), versions) == 0
    assert read_version(load_repository(offline=True), versions) == 0


def test_server_that_only_has_the_latest_commit_is_accepted(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    remote(old).responses = (repository(old), serve.status(403))
    with pytest.raises(EffnetError, match="403"):
        load_repository()
    server = remote()
    server.responses = (latest(new[CONFIG], 2), latest(new[WEIGHTS], 2))
    assert read_version(load_repository(), versions) == 1
    assert read_version(load_repository(offline=True), versions) == 1


def test_files_that_change_in_between_are_refused(
    versions: tuple[Files, Files], remote: Callable[..., WeightServer]
) -> None:
    old, new = versions
    server = remote()
    server.responses = (
        latest(old[WEIGHTS], 1), latest(new[CONFIG], 2), latest(old[WEIGHTS], 3),
        latest(new[CONFIG], 4), latest(new[WEIGHTS], 4),
    )  # fmt: skip
    with pytest.raises(EffnetError, match="'hf://me/ants' are of different commits"):
        load_repository()
    assert read_version(load_repository(), versions) == 1


def latest(content: bytes, number: int) -> serve.Response:
    """Send a file of commit `number`, whatever the requested one."""
    return lambda handler, _: handler.send(200, content, X_Repo_Commit=number)


def test_repository_with_a_model_file_needs_no_config(
    small: ModelOptions, hub: Callable[..., Path]
) -> None:
    assert small.model is not None
    model = resolve_model(ModelOptions(model=hub(small.model), offline=True))
    assert model.card == resolve_model(small).card


def test_repository_without_a_timm_config_is_refused(
    timm_folder: Path, hub: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copy(timm_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="of 'hf://me/ants' does not describe"):
        resolve_model(ModelOptions(model=hub(tmp_path), offline=True))


@pytest.mark.parametrize("name", ["hf://me/nothing", "hf-hub:me/nothing@v1"])
def test_missing_repository_is_named(name: str, hub: Callable[..., Path]) -> None:
    with pytest.raises(EffnetError, match="me/nothing is missing") as caught:
        resolve_model(ModelOptions(model=Path(name), offline=True))
    assert "--model FOLDER" in caught.value.hint
    with pytest.raises(EffnetError, match="me/nothing"):
        resolve_model(ModelOptions(model=Path(name)))


@pytest.mark.parametrize(
    "name",
    [
        "hf://",
        "HF://",
        "hf://ants",
        "hf://me/ants@",
        "hf://a/b/c",
        f"hf://me/{'n' * 3000}",
        "hf_hub:",
    ],
)
def test_odd_repository_is_refused(name: str, hub: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="is not a repository") as caught:
        resolve_model(ModelOptions(model=Path(name)))
    assert caught.value.hint == "Use hf://OWNER/NAME."


def test_calibrated_copy_is_not_written_to_a_repository(
    effnet: Callable[..., CommandResult],
) -> None:
    done = effnet("evaluate", SAMPLES, "--calibrate-to", "hf://me/ants")
    assert done.status == 2
    assert "--calibrate-to 'hf://me/ants' is a repository." in done.stderr


def test_repository_may_be_named_like_an_exported_file(
    effnet: Callable[..., CommandResult], tmp_path: Path
) -> None:
    for arguments in (
        ["predict", SAMPLES / "cat.jpg"],
        ["evaluate", SAMPLES, "--calibrate-to", tmp_path / "a.safetensors"],
    ):
        done = effnet(*arguments, "--engine", "torch", "--model", "hf://me/ants.onnx", "--offline")
        assert "'model.safetensors' of me/ants.onnx is missing." in done.stderr


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_files_of_timm_are_not_overwritten(
    name: str, timm_folder: Path, effnet: Callable[..., CommandResult]
) -> None:
    (timm_folder / "README.md").write_text("# Ants\n")
    before = (timm_folder / name).read_bytes()
    options = ["--model", timm_folder, "--output", timm_folder / name, "--format", "json"]
    done = effnet("predict", SAMPLES / "cat.jpg", *options)
    assert done.status == 2
    assert "belongs to a model and would be overwritten." in done.stderr
    assert (timm_folder / name).read_bytes() == before


def test_other_pages_are_overwritten(effnet: Callable[..., CommandResult], tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Mine\n")
    done = effnet("predict", SAMPLES / "cat.jpg", "--output", page, "--format", "json")
    assert done.status == 0, done.stderr
    assert page.read_text().startswith("[")


def test_run_from_a_repository_is_resumed(
    timm_folder: Path, hub: Callable[..., Path], run_with: RunWith
) -> None:
    base = ModelOptions(model=hub(timm_folder), offline=True)
    finished: FinishedRun = run_with(HEAD_ONLY, model=base)[0]
    for name in ("state.safetensors", "metrics.jsonl", "model.safetensors"):
        (finished.folder / name).unlink(missing_ok=True)
    resumed = resume(finished.folder)
    assert resumed.model == finished.model
    assert resumed.card.variant == "lite0.tf"


@pytest.mark.slow
def test_commands_take_a_repository(
    timm_folder: Path,
    hub: Callable[..., Path],
    effnet: Callable[..., CommandResult],
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub(timm_folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["predict", SAMPLES / "cat.jpg", "--engine", "torch"],
        ["evaluate", colours, "--compare", "hf://me/ants", "--engine", "torch"],
        ["export", "--to", "onnx"],
        ["bench", "--seconds", "1", "--engine", "torch"],
    ):
        done = effnet(*arguments, "--model", "hf://me/ants")
        assert done.status == 0, done.stderr
    assert (tmp_path / "ants.onnx").is_file()
