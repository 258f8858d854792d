"""The tables of what runs elsewhere: runtimes, the page, budgets, conversions, precisions."""

from statistics import median
from typing import Any

from tables.cells import number, table


def runtimes(record: dict[str, Any]) -> str:
    """A model in each runtime: first picture cold and warm, size, memory."""
    rows: list[list[str]] = []
    for model, measured in record["models"].items():
        for name, row in measured.items():
            if "failed" in row:
                rows.append([f"`{model}`", name, row["failed"].replace("|", "/"), "–", "–", "–"])
                continue
            figures = [number(row, key, form=form) for key, form in (("cold_s", ".2f"), ("warm_s", ".2f"))]
            sizes = [number(row, key, form=".0f") for key in ("disk_mb", "memory_mb")]
            rows.append([f"`{model}`", name, *figures, *sizes])
    head = (
        f"One picture in {record['steps']} steps, guided at all times where the model needs guidance, "
        f"{record['threads']} threads, {record['processor']}. *cold* is from the start of the process to the first "
        "picture, *warm* the fastest of the next ones; memory is the largest resident set of the process:"
    )
    return f"{head}\n\n{table(['', 'runtime', 'cold, s', 'warm, s', 'disk, MB', 'memory, MB'], rows)}"


def browser(record: dict[str, Any]) -> str:
    """The page of a model in a browser: downloads, starts, pictures, memory."""
    rows: list[list[str]] = []
    for model, measured in record["models"].items():
        for threads, row in measured.items():
            sizes = [number(row, key, form=".0f") for key in ("download_mb", "memory_mb")]
            starts = [number(row, key, form=".1f") for key in ("first_visit_s", "reload_s")]
            first, *_ = row["picture_s"]
            pictures = [f"{seconds:.2f}" for seconds in (first, median(row["picture_s"]), median(row["processor_s"]))]
            rows.append([f"`{model}`", threads, *sizes, *starts, *pictures])
    head = (
        f"Pages with weights in `int8`, in Chromium without a GPU, {record['processor']}. A picture has "
        f"{record['steps']} steps, guided at all times where the model needs guidance (half of them are guided by "
        "default now); its time runs from the click to the last pixel; *CPU* "
        "is the processor time of all threads. Of six pictures: the first, and medians:"
    )
    columns = ["", "threads", "download, MB", "memory, MB", "first visit, s", "reload, s"]
    columns += ["first picture, s", "picture, s", "CPU, s"]
    return f"{head}\n\n{table(columns, rows)}"


def budget(record: dict[str, Any]) -> str:
    """What a time gives, and how many pictures keep it."""
    rows: list[list[str]] = []
    for row in record["rows"]:
        head = [f"`{row['model']}`", f"{row['budget_ms']:.0f}"]
        if "failed" in row:
            rows.append([*head, "none fits", "–", "–", "–"])
            continue
        depth = "" if row["depth"] is None else f", depth {row['depth']}"
        kept = f"{row['kept']} of {row['pictures']}"
        figures = [number(row, key, form=".0f") for key in ("expected_ms", "slowest_ms")]
        rows.append([*head, f"{row['steps']} steps{depth}", *figures, kept])
    columns = ["", "budget, ms", "chosen", "expected, ms", "slowest, ms", "within the budget"]
    command = "`python benchmarks/budget.py`"
    head = f"How many pictures keep a budget, of bundles in `int8`, by {command} ({record['processor']}):"
    return f"{head}\n\n{table(columns, rows)}"


NAMES = {"onnx": "ONNX", "openvino": "OpenVINO", "coreml": "Core ML", "executorch": "ExecuTorch", "litert": "LiteRT"}


def conversions(record: dict[str, Any]) -> str:
    """What each model exports to, how near it is to PyTorch, and how large."""
    rows: list[list[str]] = []
    for model, targets in record.items():
        for target, forms in targets.items():
            exact, *smaller = (_converted(name, row) for name, row in forms.items())
            rows.append([f"`{model}`", NAMES[target], exact, "; ".join(smaller) or "–"])
    head = (
        "MB of the folder, the text encoder included; *from PyTorch* is the largest difference of any graph from eager "
        "float32 on random inputs, beside the largest magnitude. Of smaller weights: the root mean square that they "
        "change a call of the denoiser by, beside its deviation, and pictures beside those of the same runtime in "
        "float32:"
    )
    return f"{head}\n\n{table(['', 'target', 'float32', 'smaller weights'], rows)}"


def _converted(precision: str, row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"].replace("|", "/")
    said = [f"{row['disk_mb']:.0f} MB"]
    if precision != "fp32":
        said[0] = f"{precision}: {said[0]}"
    if row["precision_error"] is None:
        said.append("converted and inspected, not run")
    elif row["precision_error"] == 0:
        said.append(f"{row['largest_difference']:.0e} from PyTorch")
    else:
        said.append(f"{100 * row['precision_error']:.1f} %")
        if row["picture_psnr"] is not None:
            said.append(f"{row['picture_psnr']:.1f} dB")
    return ", ".join(said)


def precisions(record: dict[str, Any]) -> str:
    """Pictures in smaller weights beside float32."""
    rows: list[list[str]] = []
    for model, measured in record.items():
        for name, row in measured["rows"].items():
            ratios = ["", ""] if name == "fp32" else [f"{row[key]:.1f} dB" for key in ("psnr", "median_psnr")]
            distance = f"{row['kid']:.3f} ± {row['kid_std']:.3f}"
            rows.append([f"`{model}`", name, *ratios, distance, number(row, "disk_mb", form=".0f")])
    one = next(iter(record.values()))
    head = (
        f"{one['pictures']} captions of OpenMoji, one seed each, {one['steps']} steps, beside the same in float32. "
        "*another seed* is float32 with other noise, the distance between pictures of the same captions. KID (Lite0) "
        "is that from float32 pictures of one half of the captions to those of the other half, mean and deviation over "
        "subsets:"
    )
    titles = ["", "precision", "PSNR over all", "of the median picture", "KID", "folder, MB"]
    return f"{head}\n\n{table(titles, rows)}"


def exported_step(record: dict[str, Any]) -> str:
    """A step of every family in ONNX Runtime beside the faster peer."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for entry in record["entries"]:
        groups.setdefault((entry["family"], entry["tokens"]), []).append(entry)
    rows: list[list[str]] = []
    for (_, tokens), entries in groups.items():
        fastest = min((e for e in entries if e["peer"]), key=lambda e: e["milliseconds"])
        for own in (e for e in entries if not e["peer"]):
            ratio = f"{own['milliseconds'] / fastest['milliseconds']:.2f} ({fastest['name']})"
            sizes = [f"{e['parameters'] / 1e6:.1f} M" for e in (own, fastest)]
            rows.append([own["name"], f"{tokens:,}", f"{own['milliseconds']:.1f}", ratio, *sizes, str(own["nodes"])])
    head = (
        f"A step of `nano` in ONNX Runtime {record['onnxruntime']}, batch 1, {record['text_tokens']} text tokens, and "
        f"of the faster of PixArt and SANA, from the same exporter ({record['processor']}, {record['threads']} "
        "thread(s)). Below 1 is faster than the peer:"
    )
    columns = ["network", "tokens", "ms", "ratio", "parameters", "the peer's", "nodes"]
    return f"{head}\n\n{table(columns, rows)}"
