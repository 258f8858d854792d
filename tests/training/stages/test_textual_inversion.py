"""Learning a word: what learns, the file in diffusers' layout, and what is refused; with MiniLM, which stays frozen."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cli.run import cli
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.data.captioned import Wording
from pochade.denoisers.lrf import LRFDenoiser
from pochade.errors import PochadeError
from pochade.evaluation.generation import fingerprint
from pochade.pipelines.embedding_files import ENCODER, WEIGHTS, find_embedding
from pochade.pipelines.tensor_files import read_head
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.minilm import MiniLMEncoder
from recipes.running import train

FAST = ("steps=3", "batch_size=4", "accumulate=1", "warmup_steps=1", "sample_every=3", "log_every=1", "save_every=3")
WORD = "<mine>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(4, width=8, encoder_blocks=(1, 1, 1, 1), decoder_blocks=(1, 1, 1, 1))
    size = {"latent_channels": 4, "sample_size": 4, "patch_size": 2, "dim": 16, "heads": 2, "hidden": 32, "blocks": 1}
    denoiser = LRFDenoiser(**size, text_dim=384, pooled_dim=384, text_encoder="minilm-l6-v2")
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("models") / "reads-minilm"
    TextToImagePipeline(autoencoder, denoiser, text_encoder=MiniLMEncoder()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i, 90, 0)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}")
    return path


@pytest.fixture(scope="module")
def learned(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "word"
    changes = [f"data.source={pictures}", f"task.base={model}", f"task.token={WORD}", "task.vectors=2", *FAST]
    folder = train("textual-inversion", changes, out)
    assert folder == out / "1-textual_inversion" / "model"
    assert train("textual-inversion", changes, out, resume=True) == folder
    return folder


def test_the_word_alone_is_learned_and_written_in_diffusers_layout(learned: Path) -> None:
    tensors = load_file(learned / WEIGHTS)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {WORD: (2, 384)}
    start = MiniLMEncoder().vectors_of("drawing", 2)
    assert not torch.equal(tensors[WORD], start)
    assert float((tensors[WORD] - start).abs().max()) < 0.05  # three steps of at most the rate, 5e-3
    assert read_head(learned / WEIGHTS)[1][ENCODER] == "minilm-l6-v2"
    record = json.loads((learned / "training.json").read_text())
    assert record["stage"]["task"]["token"] == WORD
    trained = load_file(learned.parent / "checkpoint-00000003" / "model.safetensors")
    assert [tuple(t.shape) for t in trained.values()] == [(2, 384)]


def test_a_fingerprint_is_of_the_words_and_their_names(learned: Path, model: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(model)
    found = [fingerprint(pipe)]
    for name in (WORD, "<other>"):
        pipe.load_textual_inversion(load_file(learned / WEIGHTS), token=name)
        found.append(fingerprint(pipe))
        pipe.unload_textual_inversion()
        assert fingerprint(pipe) == found[0]
    assert len({*found}) == 3


def test_a_pipeline_reads_the_word_and_forgets_it(learned: Path, model: Path, tmp_path: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)

    def picture(prompt: str) -> np.ndarray:
        call: Any = {"generator": torch.Generator().manual_seed(1), "output_type": "np", "num_inference_steps": 2}
        return pipe(prompt, **call).images

    plain, spelled = picture("a fox"), picture(f"a fox, {WORD}")
    ids = pipe.text_encoder.tokenize(["a fox", f"a {WORD} fox"])[0]
    pipe.load_textual_inversion(learned)
    now = pipe.text_encoder.tokenize(["a fox", f"a {WORD} fox"])[0]
    assert now[1].tolist()[:6] == [*ids[0].tolist()[:2], 30522, 30523, *ids[0].tolist()[2:4]]
    assert pipe.text_encoder.count_tokens(f"a {WORD} fox") == 6
    assert np.array_equal(picture("a fox"), plain)
    assert not np.array_equal(picture(f"a fox, {WORD}"), spelled)
    with pytest.raises(PochadeError, match="a model with learned words given"):
        pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(PochadeError, match=f"token: '{WORD}' is loaded"):
        pipe.load_textual_inversion(learned)
    pipe.save_textual_inversion(tmp_path / "words", WORD)
    with pytest.raises(PochadeError, match=f"^save_directory: .* holds {WEIGHTS} already"):
        pipe.save_textual_inversion(tmp_path / "words", WORD)
    pipe.load_textual_inversion({"any": torch.zeros(384)}, token="<zero>")
    pipe.unload_textual_inversion(WORD)
    assert list(pipe.text_encoder.learned()) == ["<zero>"]
    pipe.unload_textual_inversion()
    assert np.array_equal(picture(f"a fox, {WORD}"), spelled)
    pipe.save_pretrained(tmp_path / "model")
    for token in ("dog", "two words", ""):
        with pytest.raises(PochadeError, match="token: "):
            pipe.load_textual_inversion({"any": torch.zeros(384)}, token=token)
    refused = {
        r"reads \[n, 384\]": {"<x>": torch.zeros(2, 7)},
        r"vectors: numbers that are not finite given for '<x>'": {"<x>": torch.full((2, 384), torch.nan)},
        r"^pretrained_model_name_or_path: \{\} given, allowed is at least one word$": {},
        r"token: '<X>' is a word of ": {"<x>": torch.zeros(384), "<X>": torch.zeros(384)},
    }
    for message, tensors in refused.items():
        with pytest.raises(PochadeError, match=message):
            pipe.load_textual_inversion(tensors)
        assert not pipe.text_encoder.learned()
    pipe.load_textual_inversion({"<x>": torch.zeros(384)})
    with pytest.raises(PochadeError, match="token: '<X>' is loaded, allowed is another name"):
        pipe.load_textual_inversion({"<X>": torch.zeros(384)})
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(PochadeError, match=r"embedding: .*none\.safetensors' given, which holds no word"):
        pipe.load_textual_inversion(tmp_path / "none.safetensors")


@pytest.mark.parametrize("word", ["sks", "SKS", "<mine>", "zuqq-Ä"])
def test_a_word_is_read_where_it_stands_whole_in_any_case(word: str) -> None:
    encoder = MiniLMEncoder()
    before = f"two ma{word}s", f"{word}1", f"x{word}"
    plain = [encoder.tokenize([text])[0].tolist() for text in before]
    encoder.teach({word: torch.ones(1, 384)})
    assert [encoder.tokenize([text])[0].tolist() for text in before] == plain
    for spelled in {word, word.upper(), word.lower()}:
        for text in (spelled, f"a {spelled} fox", f"fox, {spelled}", f"({spelled})", f"{spelled}'s fox"):
            assert encoder.tokenize([text])[0].tolist()[0].count(encoder.vocabulary_size - 1) == 1, text
            assert Wording(trigger=word).wordings(text) == [text]
        assert not encoder.unknown(spelled)
    for text in before:
        assert Wording(trigger=word).wordings(text) == [f"{word}, {text}"]


def test_captions_that_have_the_word_in_another_case_teach_it(model: Path, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "data")
    for path in folder.glob("*.txt"):
        path.write_text(f"ZUQQ {path.read_text()}")
    changes = [f"data.source={folder}", f"task.base={model}", "task.token=zuqq", *FAST]
    learned = load_file(train("textual-inversion", changes, tmp_path / "run") / WEIGHTS)
    assert not torch.equal(learned["zuqq"], MiniLMEncoder().vectors_of("drawing", 1))


def test_a_request_names_files_of_words(learned: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    command = ("generate", f"a fox, {WORD}", "--model", str(model), "--steps", "2", "--seed", "1")
    cli(capsys, *command, "--embedding", str(learned), "-o", str(out))
    (made,) = out.iterdir()
    cli(capsys, "generate", "--like", str(made), "-o", str(tmp_path / "again"))
    (again,) = (tmp_path / "again").iterdir()
    assert again.read_bytes() == made.read_bytes()
    edited = ("edit", str(made), f"a cat, {WORD}", "--model", str(model), "--embedding", str(learned), "--steps", "2")
    cli(capsys, *edited, "-o", str(tmp_path / "edited.png"))
    run = learned.parents[1]
    assert "[2, 384]" in cli(capsys, "info", str(learned)).out == cli(capsys, "info", str(run)).out
    assert find_embedding(run).file == learned / WEIGHTS
    message = f"model: '{run}' holds learned words of '{model}': allowed is {model}, where it is taken with --embedding"
    assert message in cli(capsys, "generate", "a fox", "--model", str(run), code=2).error
    plain = ("generate", "a fox", "--model", str(model), "--embedding", str(learned), "-o", str(out))
    assert f"is one that has its word, {WORD}" in cli(capsys, *plain, code=2).error
    inside = ("generate", f"a fox{WORD}", *plain[2:])
    assert f"is one that has its word, {WORD}" in cli(capsys, *inside, code=2).error
    cli(capsys, "generate", f"a fox, {WORD.upper()}", *plain[2:], "--steps", "2")
    assert "holds learned_embeds" in cli(capsys, *command, "--embedding", str(model), code=2).error
    twice = cli(capsys, *command, "--embedding", str(learned), "--embedding", str(learned / WEIGHTS), code=2).error
    assert f"the word '{WORD}' given twice, allowed is once" in twice
    other = tmp_path / "other.safetensors"
    save_file({WORD: torch.zeros(1, 384)}, other, {ENCODER: "clip:else"})
    message = "was learned for the text encoder 'clip:else'"
    assert message in cli(capsys, *command, "--embedding", str(other), code=2).error


def test_a_word_and_a_lora_go_together(learned: Path, model: Path, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    lora = train("lora", [f"data.source={pictures}", f"task.base={model}", *FAST, "learning_rate=0.05"], tmp_path / "l")
    command = ("generate", f"a fox, {WORD}", "--model", str(model), "--steps", "2", "--seed", "1")
    word, adapted = ("--embedding", str(learned)), ("--lora", f"{lora}:0.7")
    pictured: list[np.ndarray] = []
    for number, options in enumerate((word, (*word, *adapted), (*adapted, *word))):
        out = tmp_path / str(number)
        cli(capsys, *command, *options, "-o", str(out))
        with Image.open(next(out.iterdir())) as image:
            pictured.append(np.asarray(image))
    assert not np.array_equal(pictured[0], pictured[1])
    assert np.array_equal(pictured[1], pictured[2])
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion(learned)
    pipe.load_lora_weights(lora, adapter_name="mine")
    pipe.set_adapters("mine", 0.7)
    call = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(1)}
    made = np.asarray(pipe(f"a fox, {WORD}", **call).images[0])
    assert np.abs(made.astype(int) - pictured[1]).max() <= 1  # here the weights are added in each layer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((), "task.base: none given"),
        (("task.base=MODEL", "task.token=dog"), "task.token: 'dog' is a word of minilm-l6-v2, allowed is a new one"),
        (("task.base=MODEL", "task.initial= "), "task.initial: '' given, allowed are words"),
        (("task.base=MODEL", "task.vectors=0"), "vectors: 0 given, must be at least 1"),
        (("task.base=MODEL", "task.vectors=600"), "task.vectors: 600 given for '<style>', allowed are up to"),
        (("task.base=MODEL", "data.trigger=other"), "data.trigger: 'other' given, but the word is task.token"),
        (("task.base=BAG",), "task.base: bag:.* cannot be taught words"),
        (("task.base=CLASSES",), "task.base: a model that knows classes is given"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    changes: tuple[str, ...],
    message: str,
    model: Path,
    pictures: Path,
    toy_pipeline_folder: Path,
    toy_class_pipeline_folder: Path,
    tmp_path: Path,
) -> None:
    places = {"MODEL": model, "BAG": toy_pipeline_folder, "CLASSES": toy_class_pipeline_folder}
    given = [f"{key}={places.get(value, value)}" for key, _, value in (change.partition("=") for change in changes)]
    with pytest.raises(PochadeError, match=message):
        train("textual-inversion", [f"data.source={pictures}", *FAST, *given], tmp_path / "run")
    assert not (tmp_path / "run").exists()
