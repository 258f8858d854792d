"""Tables of models: quality of their samples, memory, time."""

from statistics import fmean, stdev
from typing import Any

from pochade.evaluation import summary
from tables.cells import milliseconds, number, table

DATA = {"openmoji": "OpenMoji", "drawings": "OpenMoji with its style in the captions"}
"""What tables call the data."""


def checkpoint(metrics: dict[str, Any]) -> str:
    """The splits of an evaluation side by side."""
    head, rows = summary.table_of(metrics)
    settings = metrics.get("settings", {})
    how = f"{number(settings, 'steps', form='d')} steps, guidance {number(settings, 'guidance', form='g')}"
    low, high = settings.get("guidance_interval", (0, 1))
    if settings.get("guidance") != 1 and (low, high) != (0, 1):
        how += f" from t = {low:g} to {high:g}"
    data = DATA[metrics["data"].partition(":")[0]]
    note = f" {summary.CAPTION}" if "intervals" in metrics["train"] else ""
    parts = [f"The shipped checkpoint, `{metrics['model']}`, on {data} ({how}).{note}", table(head, rows)]
    real = metrics.get("real held-out beside real training pictures")
    if real:
        kid, frechet = number(real, "kid_lite0", form=".4f"), number(real, "fd_lite0", form=".3g")
        parts.append(
            f"Real held-out pictures beside real training pictures: KID (Lite0) {kid}, FID-style distance {frechet}."
        )
    return "\n\n".join(parts)


def study(record: dict[str, Any]) -> str:
    """The runs of an ablation side by side."""
    expected = any(row.get("expected") for row in record["cases"])

    def cell(runs: list[dict[str, float]], key: str, form: str) -> str:
        values = [run[key] for run in runs]
        if len(values) > 1:
            return f"{fmean(values):{form}} ± {stdev(values):{form}} ({len(values)})"
        std = f" ± {runs[0][f'{key} std']:{form}}" if f"{key} std" in runs[0] else ""
        return f"{values[0]:{form}}{std}"

    rows = [
        [
            row["about"],
            f"{row['runs'][0]['parameters'] / 1e6:.2f} M",
            cell(row["runs"], "loss", ".3f"),
            cell(row["runs"], "kid train", ".3f"),
            cell(row["runs"], "R@1 train", ".2f"),
            cell(row["runs"], "R@1 held_out", ".3f"),
            *([row["expected"] or "–"] if expected else []),
        ]
        for row in record["cases"]
    ]
    columns = ["", "parameters", "loss", "KID (Lite0) ± std", "R@1", "R@1, held out"]
    if expected:
        columns.append("expected")
    return f"{record['about']}:\n\n{table(columns, rows)}"


def microforge_carry(record: dict[str, Any]) -> str:
    """Pictures and their jitter with and without the plan state between steps."""
    steps = list(record["rows"][0]["jitter"])
    rows = [
        [
            row["model"],
            "carried" if row["carries"] else "dropped after every step",
            *(f"{row['jitter'][step]:.3f}" for step in steps),
            f"{row['kid train']:.3f} ± {row['kid train std']:.3f}",
            f"{row['R@1 train']:.2f}",
            f"{row['R@1 held_out']:.3f}",
        ]
        for row in record["rows"]
    ]
    columns = ["model", "plan", *(f"jitter, {step} steps" for step in steps)]
    return table([*columns, "KID (Lite0) ± std", "R@1", "R@1, held out"], rows)


def microforge_kernels(record: dict[str, Any]) -> str:
    """How much of the power lies in the upper half of the frequencies, along the path of a scan and across it."""

    def upper(shares: list[float]) -> str:
        return f"{100 * sum(shares[len(shares) // 2 :]):.1f} %"

    rows = [
        [
            f"{row['kernel']} x {row['kernel']}" if row["kernel"] else "none",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['held-out loss']:.3f}",
            *(upper(row[name]) for name in ("along", "across", "error along rows", "error along columns")),
        ]
        for row in record["rows"]
    ]
    scans = ["scan, along its path", "across it"]
    return table(["kernel", "parameters", "held-out loss", *scans, "error, along rows", "along columns"], rows)


def autoencoders_at_equal_bytes(record: dict[str, Any]) -> str:
    """What comes back of pictures, from latents and from files."""
    rows = [
        [
            f"{e['bytes']:,.0f}",
            f"{e['name']}: {e['kind']}" if e["parameters"] else e["name"],
            str(e["pixels"]),
            f"{e['means']['psnr']:.2f} ± {e['standard_errors']['psnr']:.2f}",
            f"{e['means']['ssim']:.3f}",
            f"{e['means']['perceptual']:.3f}",
            f"{e['means']['sharpness']:.2f}",
        ]
        for group in record["groups"]
        for e in group
    ]
    columns = ["bytes", "what", "coded pixels", "PSNR, dB", "SSIM", "perceptual distance", "sharpness"]
    head = f"{record['pictures']} held-out pictures of {record['size']} x {record['size']} pixels:"
    return f"{head}\n\n{table(columns, rows)}"


def microforge_memory(record: dict[str, Any]) -> str:
    """Weights and activations beside the published figures."""
    rows = [
        [
            r["variant"],
            f"{r['weights_mb']:.0f}",
            f"{r['denoiser_activations_mb']:.1f}",
            f"{r['decoder_activations_mb']:.1f}",
            f"{r['total_mb']:.0f}",
            str(r["published_mb"]),
        ]
        for r in record["memory"]
    ]
    columns = ["size", "weights", "activations of a step", "activations of the decoder", "total", "published"]
    head = f"MB in float16 for a picture of {record['pixels']} px, denoiser and decoder, without a text encoder:"
    return f"{head}\n\n{table(columns, rows)}"


def microforge_switches(record: dict[str, Any]) -> str:
    """What each part costs in parameters and time."""
    base = record["switches"][0]
    rows = [
        [
            r["about"],
            f"{r['parameters'] / 1e6:.2f} M",
            *(f"{r['ms'][n]:.1f} ({r['ms'][n] / base['ms'][n]:.2f})" for n in base["ms"]),
        ]
        for r in record["switches"]
    ]
    times = [f"ms at {n} tokens (ratio)" for n in base["ms"]]
    head = f"A step of `nano`, batch {record['batch']} ({record['processor']}, {record['threads']} thread(s)):"
    return f"{head}\n\n{table(['', 'parameters', *times], rows)}"


def microforge_modulation(record: dict[str, Any]) -> str:
    """Grouped modulation against a matrix a block."""
    rows = [
        [
            r["variant"],
            f"{r['grouped_parameters'] / 1e6:.1f} M",
            f"{r['full_parameters'] / 1e6:.1f} M",
            f"{r['full_parameters'] / r['grouped_parameters'] - 1:+.0%}",
        ]
        for r in record["modulation"]
    ]
    return table(["size", "grouped adaLN", "full adaLN", "parameters"], rows)


def iris_depth(record: dict[str, Any]) -> str:
    """Quality against the number of iterations."""
    rows = [
        [
            r["model"],
            str(r["depth"]),
            f"{r['effective_parameters'] / 1e6:.0f} M",
            f"{r['kid train']:.3f} ± {r['kid train std']:.3f}",
            f"{r['R@1 train']:.2f}",
            f"{r['kid held_out']:.3f} ± {r['kid held_out std']:.3f}",
            f"{r['R@1 held_out']:.3f}",
        ]
        for r in record["rows"]
    ]
    least, most = record["trained"]
    head = (
        f"Sampled in {record['steps']} Euler steps with guidance, {record['samples']} captions of training concepts "
        f"and the held-out ones; training had {least} to {most} iterations:"
    )
    columns = ["model", "iterations", "parameters in use", "KID (Lite0) ± std", "R@1"]
    return f"{head}\n\n{table([*columns, 'KID (Lite0) ± std, held out', 'R@1, held out'], rows)}"


def iris_control(record: dict[str, Any]) -> str:
    """What is given as the control, and the samples; the figures of one kind."""
    kind = record.get("kind", "edges")
    measures = ("recall", "precision") if kind == "edges" else ("IoU", "recall")
    thing = "people" if kind == "pose" else "concepts"
    splits = {"train": f"training {thing}", "held_out": f"held-out {thing}"}
    given = {
        "followed": f"{kind}, own caption",
        "another caption": f"{kind}, another caption",
        "no words": f"{kind}, no caption",
        "not followed": f"no {kind}, own caption",
        "no words, not followed": f"no {kind}, no caption",
    }
    rows = [
        [
            splits[r["split"]],
            given[r["way"]],
            str(r["pictures"]),
            *(f"{r[name]:.2f} ± {r[f'{name} standard error']:.2f}" for name in measures),
            *(f"{r[f'{name} by chance']:.2f}" for name in measures if f"{name} by chance" in r),
        ]
        for r in record["rows"]
    ]
    chance = [f"{name}, another's {kind}" for name in measures if f"{name} by chance" in record["rows"][0]]
    return table([f"{kind} of", "conditioning", "samples", *measures, *chance], rows)


IRIS_PUBLISHED = {"tiny": 545, "small": 597, "base": 760}
"""MB of inference that the published document promises, all together."""


def iris_memory(record: dict[str, Any]) -> str:
    """Whole pictures of 512 px beside the published memory, and their times."""
    forms = {
        "eager": ("picture", "eager", "fp32"),
        "ONNX": ("picture", "onnx", "fp32"),
        "ONNX part by part": ("picture_in_turn", "onnx", "fp32"),
        "int8": ("picture", "onnx", "int8"),
        "int8 part by part": ("picture_in_turn", "onnx", "int8"),
    }
    memory, seconds = [], []
    for variant, published in IRIS_PUBLISHED.items():
        for name, text in ((f"iris:{variant}", "MiniLM"), (f"iris:{variant}+clip-l", "CLIP-L")):
            found = record["profiles"][name]["rows"]
            rows = {(r["component"], r["runtime"], r["precision"]): r for r in found}
            most = (max(rows[form]["peak_mb"], rows[form]["loading_mb"]) for form in forms.values())
            memory.append([variant, text, str(published), *(f"{peak:,.0f}" for peak in most)])
            seconds.append([variant, text, *(f"{rows[form]['seconds']:.2f}" for form in forms.values())])
    of = ["size", "text encoder"]
    peaks, times = table([*of, "published", *forms], memory), table([*of, *forms], seconds)
    return f"Peak memory in MB:\n\n{peaks}\n\nSeconds:\n\n{times}"


def microforge_pictures(record: dict[str, Any]) -> str:
    """Whole pictures of 256 px by runtime and precision."""
    forms = {"PyTorch": ("eager", "fp32"), "ONNX": ("onnx", "fp32"), "ONNX, 8-bit weights": ("onnx", "int8")}
    rows = []
    for variant in ("nano", "tiny"):
        found = record["profiles"][f"microforge:{variant}"]["rows"]
        pictures = {(r["runtime"], r["precision"]): r for r in found if r["component"] == "picture"}
        rows.append([variant, *(f"{pictures[form]['seconds']:.2f}" for form in forms.values())])
    return f"Seconds:\n\n{table(['size', *forms], rows)}"


def lira_thinking(record: dict[str, Any]) -> str:
    """Reasoning steps of short and long prompts."""
    groups = {k: v for k, v in record.items() if isinstance(v, dict) and "standard error" in v}
    every = list(record["steps"])
    rows = [
        [
            name,
            str(group["prompts"]),
            f"{group['mean']:.2f} ± {group['standard error']:.2f}",
            *(f"{group['steps'].get(step, 0) / sum(group['steps'].values()):.0%}" for step in every),
        ]
        for name, group in groups.items()
    ]
    head = (
        f"`{record['model']}`, {record['prompts']} captions at {record['sampling_steps']} sampling steps each: "
        f"{record['mean']:.2f} reasoning steps in the mean, {record['std']:.2f} their standard deviation from prompt "
        f"to prompt, {record['correlation with words']:+.2f} their correlation with the number of words. Means with "
        "standard errors, and the fraction of the denoiser's calls that took so many steps:"
    )
    return f"{head}\n\n{table(['', 'prompts', 'mean', *(f'{step} steps' for step in every)], rows)}"


def sampling(record: dict[str, Any]) -> str:
    """Solvers and numbers of steps against each other."""
    rows = [
        [
            r["model"],
            r["scheduler"],
            str(r["steps"]),
            f"{r['guidance']:g}",
            f"{r['kid train']:.3f} ± {r['kid train std']:.3f}",
            f"{r['R@1 train']:.2f}",
            f"{r['kid held_out']:.3f} ± {r['kid held_out std']:.3f}",
            f"{r['R@1 held_out']:.3f}",
        ]
        for r in record["rows"]
    ]
    columns = ["model", "solver", "steps", "guidance", "KID (Lite0) ± std", "R@1"]
    columns += ["KID (Lite0) ± std, held out", "R@1, held out"]
    head = f"{record['samples']} captions of training concepts and {record['held_out']} of held-out ones:"
    return f"{head}\n\n{table(columns, rows)}"


def fast_sampling(record: dict[str, Any]) -> str:
    """What each way to spend less on a picture costs, and what it gives."""

    def way(r: dict[str, Any]) -> str:
        parts = [f"{r['steps']} steps" if r["steps"] > 1 else "1 step"]
        if r["interval"] != [0.0, 1.0]:
            parts.append("guided from {:g} to {:g}".format(*r["interval"]))
        if r["reuse"]:
            parts.append({"trunk": "whole trunk reused", "half": "first half reused"}[r["reuse"]])
        return ", ".join(parts + ([r["scheduler"]] if r["scheduler"] else []))

    rows = [
        [
            r["model"],
            way(r),
            f"{r['evaluations']:g}",
            milliseconds(r["ms"]) if "ms" in r else "–",
            f"{r['kid train']:.3f} ± {r['kid train std']:.3f}",
            f"{r['R@1 train']:.2f}",
        ]
        for r in record["rows"]
    ]
    head = f"{record['samples']} captions of training concepts"
    if "processor" in record:
        head += f"; {record['processor']}, {record['threads']} threads"
    return f"{head}:\n\n{table(['model', 'way', 'NFE', 'ms a picture', 'KID (Lite0) ± std', 'R@1'], rows)}"


def schedulers(record: dict[str, Any]) -> str:
    """Similarity to a model's own pictures: a row for each model and scheduler, a column for each number of steps."""
    rows: list[list[str]] = []
    for found in record["models"]:
        for name, cosines in found["cosines"].items():
            about = [found["model"], str(found["steps"]), f"{found['unrelated']:.2f}"]
            rows.append([*about, name, *(f"{value:.2f}" for value in cosines.values())])
    steps = list(record["models"][0]["cosines"]["euler"])
    columns = ["model", "its steps", "unrelated", "scheduler", *(f"{n} steps" for n in steps)]
    return table(columns, rows)


CONFIGURED = {"LRF": 2, "IRIS": 8}
"""How often a family applies its core where nothing else is said."""


def denoiser_step(record: dict[str, Any]) -> str:
    """A family's step against the faster peer at each size and number of tokens."""
    title = record["entries"][0]["name"]
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in record["entries"]:
        if entry["milliseconds"] is not None:
            groups.setdefault((entry["variant"], entry["tokens"]), {})[entry["name"]] = entry
    iterates = any(" as depth " in entry["name"] for entry in record["entries"])

    def ratio(own: dict[str, Any], found: dict[str, Any], ending: str) -> str:
        peers = [e for name in ("PixArt", "SANA") if (e := found.get(f"{name}{ending}"))]
        if not peers:
            return "–"
        peer = min(peers, key=lambda e: e["milliseconds"])
        return f"{own['milliseconds'] / peer['milliseconds']:.2f} ({peer['name'].removesuffix(ending)})"

    depths = {name: name.removeprefix(f"{title}, depth ") for _, found in groups.items() for name in found}
    own_depths = {title: str(CONFIGURED.get(title, "")), **{n: d for n, d in depths.items() if n != d}}
    rows = []
    for (variant, tokens), found in groups.items():
        for name, depth in own_depths.items():
            if name not in found:
                continue
            own = found[name]
            ratios = [ratio(own, found, ""), *([ratio(own, found, f" as depth {depth}")] if iterates else [])]
            if set(ratios) == {"–"}:
                continue
            share = format(own["share_of_matmul"], ".0%")
            shown = [depth] if len(own_depths) > 1 else []
            rows.append([variant, str(tokens), *shown, f"{own['milliseconds']:.1f}", *ratios, share])
    head = (
        "A forward pass of the denoiser beside diffusers' PixArt and SANA transformers of equal parameters "
        f"({record['processor']}, {record['threads']} thread(s)). The ratio is against the faster of the two, "
        "below 1 is faster; the share is the arithmetic rate relative to that of a matrix product:"
    )
    in_use = ["ratio at equal parameters in use"] if iterates else []
    columns = ["size", "tokens", *(["depth"] if len(own_depths) > 1 else []), "ms", "ratio", *in_use, "share"]
    return f"{head}\n\n{table(columns, rows)}"


def autoencoder_channels(record: list[dict[str, Any]]) -> str:
    """The sweep that chose the number of latent channels."""
    rows = [
        [
            str(r["channels"]),
            str(r["steps"]),
            f"{r['held_out_psnr']:.2f}",
            f"{r['perceptual']:.3f}",
            f"{r['seconds']:.0f}",
        ]
        for r in record
    ]
    head = "Autoencoders of equal cost with different numbers of latent channels, on held-out concepts:"
    return f"{head}\n\n{table(['channels', 'steps', 'PSNR, dB', 'perceptual distance', 'seconds'], rows)}"


def startup(record: dict[str, dict[str, float]]) -> str:
    """Time and memory of imports and of a first picture."""
    rows = [
        [name, f"{r['seconds']:.2f}", f"{r['mebibytes']:.0f}", f"{r['ratio_to_torch']:.2f}"]
        for name, r in record.items()
        if name != "bare python"
    ]
    head = (
        "Start-up. *cold generate* is a new process that generates one picture of 64 x 64 in 50 steps "
        "with guidance, by the graphs of the model and by PyTorch, *warm call* the same in a process that has done so "
        "before by PyTorch; the ratio is to the import of torch:"
    )
    return f"{head}\n\n{table(['', 'seconds', 'MiB resident', 'ratio'], rows)}"


def cifar10_training(record: dict[str, Any]) -> str:
    """The published CIFAR-10 recipe, projected from a short run."""
    published, share = record["published"], record["seconds_data"] / record["seconds_per_step"]
    rows = [
        ["here", "synthetic latents", f"{record['seconds_per_step']:.3f}", f"{record['projected_minutes']:.0f}", "–"],
        [
            "here, `compile=true`",
            "synthetic latents",
            f"{record['compiled']['seconds_per_step']:.3f}",
            f"{record['compiled']['projected_minutes']:.0f}",
            "–",
        ],
        ["published", "CIFAR-10", "–", str(published["minutes"]), str(published["loss"])],
    ]
    head = (
        f"The recipe `lrf-cifar10`: {record['steps_of_the_recipe']:,} steps of {record['batch_size']} on a CPU "
        f"({record['machine']}). The minutes are projected from a short run, in which {share:.1%} of a step "
        "went into waiting for data:"
    )
    return f"{head}\n\n{table(['', 'data', 'seconds a step', 'minutes', 'loss'], rows)}"


def cifar10_classes(record: dict[str, Any]) -> str:
    """A whole run of that recipe on a stand-in, by class."""
    sampling = record["sampling"]
    low, high = sampling["guidance_interval"]
    head = (
        f"All {record['steps']:,} steps of `lrf-cifar10` on 50,000 drawings in the form of CIFAR-10 "
        f"({record['processor']}, one core, shared; {record['seconds per step']:.2f} s a step at the fastest): loss "
        f"{record['loss']:.3f} in the last quarter. The autoencoder, of {record['autoencoder parameters'] / 1e6:.2f} M "
        f"parameters, has {record['autoencoder psnr']:.1f} dB on the test batch. KID (Lite0) of "
        f"{record['pictures of each class']} pictures of each class, {sampling['steps']} steps guided by "
        f"{sampling['guidance']:g} from t = {low:g} to {high:g}, beside as many real ones:"
    )
    rows = [
        [row["class"], *(f"{row[side]:.3f} ± {row[f'{side} std']:.3f}" for side in ("train", "test"))]
        for row in record["classes"]
    ]
    rows.append(["all together", *(f"{record[side]:.3f} ± {record[f'{side} std']:.3f}" for side in ("train", "test"))])
    note = f"Real pictures of the test batch beside those of training: {record['test beside train']:.3f}."
    return f"{head}\n\n{table(['', 'training concepts', 'held-out concepts'], rows)}\n\n{note}"
