"""The sections of the report on a comparison."""

from __future__ import annotations

from collections.abc import Iterator

from train.compare.findings import answers, claims, losses, show
from train.compare.page import Answers, Block, Bullets, Heading, Paragraph, Picture, Strong, Table
from train.compare.summary import MEASURES, PLAIN, SUBSET_MEASURE, Scale, Summary
from train.compare.tables import (
    NOTHING,
    PER_CENT,
    Column,
    mean_text,
    measure_table,
    method_table,
    plain_text,
    runs_text,
    settings_text,
    spread_text,
)

TITLE = "Methods compared under missing modalities"
PERCENT = Scale(100, 0)
FOUND = ("best_epoch", "validation_accuracy")
"""What training found among the hyper-parameters."""
ACCURACIES = ("full", "mean", "worst", "missing_area", "robustness")
CONFIDENCES = ("ece_full", "ece_mean", "nll_full", "nll_mean", "risk_full", "risk_mean")
READING = (
    "Figures are means over seeds ± one standard deviation; shares are in per cent, differences in "
    "points. The best of a column is bold. A difference is {reference} less the other method, seed "
    "by seed, with the 95 % Student-t interval of its mean; intervals are not corrected for the "
    "number of comparisons. Seeds share the data, so the intervals speak of training, not of "
    "another test split."
)


def sections(document: Summary) -> list[Block]:
    """The whole report, the answers first."""
    parts = (_first, _losses, _claims, _accuracy, _differences, _missing, _corruption)
    methods = [
        block for part in (*parts, _confidence) for block in part(without_ablations(document))
    ]
    more = (_ablation, _prediction_sets, _duc, _settings)
    return [*methods, *(block for part in more for block in part(document))]


def without_ablations(document: Summary) -> Summary:
    """The document of the methods alone, without `dimml` with a change."""
    fewer = {
        part: {n: v for n, v in document[part].items() if n not in document["ablations"]}
        for part in ("methods", "differences")
    }
    return {**document, **fewer}


def _ablation(document: Summary) -> Iterator[Block]:
    reference = document["reference"]
    names = [reference, *document["ablations"]]
    shown = {name: document["methods"][name] for name in names if name in document["methods"]}
    if len(shown) < 2:
        return
    yield Heading(f"{reference} with one change at a time")
    yield Paragraph(
        "+paper: the source's weighting, not calibrated. +certainty: calibrated per modality and "
        "subset, then weighted by certainty. +pooled: with a learned weight per modality too. "
        "+both-heads: the private heads answer beside the shared one. +stage2: the source's fusion "
        "head, where all modalities are present. +stage2-dropout: such a head alone, trained with "
        "modalities left out. -no-shared, -no-duc: trained without. Choices are made by the "
        "columns of validation, measured on rows that calibration did not see, not those of test."
    )
    part = {**document, "methods": shown}
    columns = [
        Column("validation: accuracy", lambda method: method["validation"]["accuracy"]),
        Column("NLL", lambda method: method["validation"]["nll"], higher=False, scale=PLAIN),
        *(_test_column(key) for key in ("mean", "full", "worst", "robustness")),
        *(_test_column(key) for key in ("nll_mean", "ece_mean")),
    ]
    yield method_table(part, columns)
    yield Paragraph(f"Paired differences on test: {reference} less the other.")
    keys = ("mean", "full", "robustness", "nll_mean")
    rows = [
        [name, *(show(found["measures"][key], MEASURES[key], unit=False) for key in keys)]
        for name, found in document["differences"].items()
        if name in shown
    ]
    yield Table(["method", *(MEASURES[key].title for key in keys)], rows)


def _test_column(key: str) -> Column:
    one = MEASURES[key]
    return Column(
        f"test: {one.title}", lambda method: method["measures"][key], one.higher, one.scale
    )


def _first(document: Summary) -> Iterator[Block]:
    methods = document["methods"]
    samples = document["samples"].get(document["full"])
    name = f"{document['name']}: " if document.get("name") else ""
    yield Paragraph(
        f"{name}{len(methods)} methods and reference rows, seeds {runs_text(document['seeds'])}, "
        f"{samples or 'no'} test samples on full input ({document['full']})."
    )
    yield Answers(answers(document))
    if document["gaps"]:
        yield Paragraph("This comparison is not complete:")
        yield Bullets([f"{gap}." for gap in document["gaps"]])


def _losses(document: Summary) -> Iterator[Block]:
    reference = document["reference"]
    less = f"differences are {reference} less the other"
    yield Heading(f"Where {reference} loses")
    clear, unsettled = losses(document)
    if not document["differences"]:
        yield Paragraph(f"Not known: there is nothing to compare {reference} with.")
    elif not clear and not unsettled:
        yield Paragraph("Nowhere: on no measure here does another method have a better mean.")
    if clear:
        yield Paragraph(f"Another method is better, beyond the interval; {less}:")
        yield Bullets(clear)
    if unsettled:
        yield Paragraph(f"Another method has the better mean, not settled by the seeds; {less}:")
        yield Bullets(unsettled)


def _claims(document: Summary) -> Iterator[Block]:
    found = claims(document)
    if found:
        yield Heading(f"What {document['reference']} claims")
        rows = [(claim, seen, Strong(holds)) for claim, seen, holds in found]
        yield Table(("claim", "measured", "holds"), rows, texts=True)


def _accuracy(document: Summary) -> Iterator[Block]:
    yield Heading("Accuracy, %")
    yield Paragraph(READING.format(reference=document["reference"]))
    yield measure_table(document, ACCURACIES)
    yield Paragraph("By subset of modalities present:")
    columns = [
        Column(name, lambda method, name=name: method["subsets"][name]["accuracy"])
        for name in document["subsets"]
    ]
    yield method_table(document, columns)
    yield Picture("subsets", "Accuracy by subset; lines are one standard deviation over seeds.")


def _differences(document: Summary) -> Iterator[Block]:
    found = document["differences"]
    if not found:
        return
    yield Heading(f"Paired differences: {document['reference']} less the other")
    yield Paragraph("Accuracies in points. With ECE, NLL and risk, below 0 is better.")
    for keys in (ACCURACIES, CONFIDENCES):
        rows = [
            [name, *(show(one["measures"][key], MEASURES[key], unit=False) for key in keys)]
            for name, one in found.items()
        ]
        yield Table(["method", *(MEASURES[key].title for key in keys)], rows)
    rows = [
        [name, *(show(one["subsets"][s], SUBSET_MEASURE, unit=False) for s in document["subsets"])]
        for name, one in found.items()
    ]
    yield Table(["method", *document["subsets"]], rows)


def _missing(document: Summary) -> Iterator[Block]:
    if not document["rates"]:
        return
    yield Heading("Modalities missing at random, accuracy in %")
    yield Paragraph(
        "Each modality of a test sample is dropped with the rate given; at least one stays. The "
        "area under the curve, divided by the range of rates, is its mean height."
    )
    yield Picture("missing", "Accuracy against the rate; bands are one standard deviation.")
    columns = [
        Column(_rate(rate), lambda method, rate=rate: method["missing"][rate]["accuracy"])
        for rate in document["rates"]
    ]
    yield method_table(document, columns)


def _corruption(document: Summary) -> Iterator[Block]:
    kinds = {
        (modality, kind): list(levels)
        for method in document["methods"].values()
        for modality, kinds in method["corruption"].items()
        for kind, levels in kinds.items()
    }
    if not kinds:
        return
    yield Heading("One modality corrupted, accuracy in %")
    yield Paragraph("The other modalities are whole. Levels, by rising severity, are divided by /.")
    rows = [
        [name, *(_levels(method["corruption"][m][kind]) for m, kind in kinds)]
        for name, method in document["methods"].items()
    ]
    yield Table(["method", *(f"{m}: {k} {' / '.join(n)}" for (m, k), n in kinds.items())], rows)
    yield Picture("weights", "Weight of the corrupted modality, for methods that weight.")


def _confidence(document: Summary) -> Iterator[Block]:
    yield Heading("Confidence")
    yield Paragraph("Less is better. ECE over 15 bins of equal width; NLL in nats.")
    yield measure_table(document, CONFIDENCES)
    yield Paragraph(
        "ECE by subset, and in brackets what a perfectly calibrated classifier of the same "
        "confidences and sample size would measure (by simulation): a finite sample never "
        "measures 0."
    )
    rows = []
    for name, method in document["methods"].items():
        pairs = [method["subsets"][subset] for subset in document["subsets"]]
        cells = [f"{spread_text(p['ece'])} ({mean_text(p['expected_ece'])})" for p in pairs]
        rows.append([name, *cells])
    yield Table(["method", *document["subsets"]], rows)
    yield Picture(
        "reliability",
        "Reliability, seeds pooled: on the dashed line, confidence is the share of right answers; "
        "below it, answers are too confident. A dot's area is the share of samples.",
    )


def _prediction_sets(document: Summary) -> Iterator[Block]:
    found = [(prefix, _with_sets(document, prefix)) for prefix in ("", "high_")]
    if not any(shown for _, shown in found):
        return
    yield Heading("Prediction sets")
    yield Paragraph("Share of sets that hold the true label in %, then the mean size of a set.")
    for prefix, shown in found:
        if not shown:
            continue
        figures = next(iter(shown.values()))["subsets"]
        nominal = next(iter(figures.values()))[f"{prefix}set_nominal"]
        yield Paragraph(f"At a coverage of {mean_text(nominal, PERCENT)} %:")
        rows = [
            [name, *(_coverage(method["subsets"][s], prefix) for s in document["subsets"])]
            for name, method in shown.items()
        ]
        yield Table(["method", *document["subsets"]], rows)


def _with_sets(document: Summary, prefix: str) -> Summary:
    keys = (f"{prefix}set_coverage", f"{prefix}set_size")
    return {
        name: method
        for name, method in document["methods"].items()
        if any(one[key]["mean"] is not None for one in method["subsets"].values() for key in keys)
    }


def _duc(document: Summary) -> Iterator[Block]:
    shown = {name: one["duc"] for name, one in document["methods"].items() if one["duc"]}
    if not shown:
        return
    yield Heading("Sizes of the dimension sets")
    yield Paragraph(
        "Effective: feature dimensions that tell classes apart. Selected, a->b: those in which b "
        "learns from a."
    )
    rows = [
        [f"{name}, {group}", ", ".join(f"{key} {plain_text(size)}" for key, size in sizes.items())]
        for name, groups in shown.items()
        for group, sizes in groups.items()
    ]
    yield Table(("method", "sizes, mean over seeds"), rows, texts=True)


def _settings(document: Summary) -> Iterator[Block]:
    yield Heading("Settings and cost")
    rows = []
    for name, method in document["methods"].items():
        chosen = [
            settings_text({k: v for k, v in one.items() if k not in FOUND})
            for one in method["hyperparameters"]
        ]
        settings = "; ".join(dict.fromkeys(chosen)) or NOTHING
        cost = [plain_text(method["seconds"]), plain_text(method["epochs"])]
        rows.append([name, runs_text(method["seeds"]), *cost, settings])
    header = ("method", "seeds", "seconds per seed", "epochs", "hyper-parameters")
    yield Table(header, rows, texts=True)
    yield Paragraph(
        "Seconds of training, calibration and measuring; rows out of the same training share them, "
        "and who has many such rows measures longer."
    )
    for machine in document["machines"]:
        yield Paragraph(f"Machine: {settings_text(machine)}.")


def _levels(levels: Summary) -> str:
    means = [level["accuracy"]["mean"] for level in levels.values()]
    return " / ".join(NOTHING if mean is None else f"{100 * mean:.1f}" for mean in means)


def _coverage(figures: Summary, prefix: str) -> str:
    size = figures[f"{prefix}set_size"]["mean"]
    shown = NOTHING if size is None else f"{size:.2f}"
    return f"{spread_text(figures[f'{prefix}set_coverage'], PER_CENT)}; {shown}"


def _rate(rate: str) -> str:
    return f"{100 * float(rate):g} %"
