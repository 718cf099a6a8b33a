"""Whether the manifest of a bundle and its graphs speak of the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dimml.bundle import Bundle
from dimml.errors import BundleError
from dimml.runtime.session import Graph


def check_fits(bundle: Bundle, encoders: Mapping[str, Graph], classifier: Graph) -> None:
    """Refuses a manifest that says otherwise than its graphs: no checksum covers it.

    Raises:
        BundleError: sizes of features, labels, modalities or preprocessed inputs differ.
    """
    manifest = bundle.manifest
    sizes = {
        "probabilities": len(manifest.labels),
        "weights": len(manifest.modalities),
        "modality_logits": len(manifest.labels),
    }
    wanted = [(manifest.classifier, classifier, sizes)]
    wanted += [
        (spec.graph, encoders[name], {"features": manifest.feature_dim})
        for name, spec in manifest.modalities.items()
    ]
    for file, graph, outputs in wanted:
        for output, size in outputs.items():
            found = graph.outputs.get(output, [None])[-1]
            if found != size:
                raise BundleError(
                    f"{bundle.path}: its manifest was changed: it asks {file} for `{output}` of "
                    f"size {size}, and the graph gives {found}; export the bundle again"
                )
    for name, kind in bundle.kinds().items():
        example = kind.collate([kind.preprocess(kind.decode(kind.example()))])
        given = {key: array.shape for key, array in example.items()}
        if not _agree(given, encoders[name].inputs):
            raise BundleError(
                f"{bundle.path}: its manifest was changed: the preprocessing of `{name}` gives "
                f"{given}, and its graph takes {encoders[name].inputs}; export the bundle again"
            )


def _agree(given: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int | str]]) -> bool:
    return list(given) == list(wanted) and all(
        len(shape) == len(wanted[name])
        and all(isinstance(n, str) or n == m for m, n in zip(shape, wanted[name], strict=True))
        for name, shape in given.items()
    )
