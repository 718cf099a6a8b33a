"""What a feature extractor of the hub does, as plain numbers of the kind and of the front end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dimml.errors import RecipeError
from dimml.modalities.audio import AudioConfig
from dimml.nn.pretrained.families import Family
from dimml.nn.pretrained.front_ends import KaldiFilterBank
from train.pretrained.folder import ModelFolder

REQUIRED = ("sample_rate", "output", "n_fft", "hop_length", "edges")
"""Keys of the preprocessing that a recipe cannot change."""

MAX_SECONDS = 30.0
STEP_SECONDS = 0.5
MINIMUM_SECONDS = 0.1
"""Shorter waveforms can leave a speech model without a single frame."""

Numbers = tuple[dict[str, Any], dict[str, Any]]
"""The preprocessing, and the arguments of the front end."""


def audio_preprocessing(folder: ModelFolder, config: Mapping[str, Any], family: Family) -> Numbers:
    """Return the preprocessing of a model's recordings, and the arguments of its front end.

    Raises:
        RecipeError: If the extractor cannot be read, or is not that of the family.
    """
    import transformers

    try:
        load: Any = transformers.AutoFeatureExtractor.from_pretrained
        settings: dict[str, Any] = load(folder.path, trust_remote_code=False).to_dict()
        return _READERS[family.front_end](settings, config)
    except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"the feature extractor of {folder.model} cannot be read: {error}"
        ) from error
    except KeyError as error:
        raise RecipeError(
            f"the feature extractor of {folder.model} has no {error}, which a "
            f"{config['model_type']} needs"
        ) from error


def _whisper(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Numbers:
    rate, n_fft, bands = (settings[k] for k in ("sampling_rate", "n_fft", "feature_size"))
    if bands != config["num_mel_bins"]:
        raise RecipeError(
            f"the extractor has {bands} mel bands, the model {config['num_mel_bins']}"
        )
    preprocessing = {
        "sample_rate": rate,
        "seconds": float(settings["chunk_length"]),
        "max_seconds": float(settings["chunk_length"]),
        "step_seconds": STEP_SECONDS,
        "output": "power",
        "n_fft": n_fft,
        "hop_length": settings["hop_length"],
        "edges": "reflect",
    }
    return preprocessing, {"sample_rate": rate, "n_fft": n_fft, "n_mels": bands}


def _clap(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Numbers:
    if config.get("enable_fusion") or settings["truncation"] == "fusion":
        raise RecipeError(
            "this CLAP joins several crops of a recording (`enable_fusion`); choose one without, "
            "such as laion/clap-htsat-unfused"
        )
    rate, n_fft, bands = (settings[k] for k in ("sampling_rate", "fft_window_size", "feature_size"))
    preprocessing = {
        "sample_rate": rate,
        "seconds": float(settings["max_length_s"]),
        "fill": "silence" if settings["padding"] == "pad" else "repeat",
        "output": "power",
        "n_fft": n_fft,
        "hop_length": settings["hop_length"],
        "edges": "reflect",
    }
    edges = {"lowest": settings["frequency_min"], "highest": settings["frequency_max"]}
    return preprocessing, {"sample_rate": rate, "n_fft": n_fft, "n_mels": bands, **edges}


def _kaldi(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Numbers:
    rate, frames = settings["sampling_rate"], settings["max_length"]
    samples = KaldiFilterBank.WINDOW + (frames - 1) * KaldiFilterBank.HOP
    if frames != config["max_length"] or settings["num_mel_bins"] != config["num_mel_bins"]:
        raise RecipeError(
            f"the extractor gives {frames} frames of {settings['num_mel_bins']} bands, the model "
            f"reads {config['max_length']} of {config['num_mel_bins']}"
        )
    normalized = settings.get("do_normalize", True)
    front_end = {
        "sample_rate": rate,
        "n_mels": settings["num_mel_bins"],
        "max_frames": frames,
        "mean": settings["mean"] if normalized else 0.0,
        "std": settings["std"] if normalized else 0.5,
    }
    return {"sample_rate": rate, "seconds": samples / rate, "output": "waveform"}, front_end


def _waveform(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Numbers:
    preprocessing = {
        "sample_rate": settings["sampling_rate"],
        "seconds": None,
        "max_seconds": MAX_SECONDS,
        "step_seconds": STEP_SECONDS,
        "output": "waveform",
    }
    return preprocessing, {"normalize": bool(settings["do_normalize"])}


_READERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Numbers]] = {
    "whisper": _whisper,
    "clap": _clap,
    "kaldi": _kaldi,
    "waveform": _waveform,
}


def check_length(audio: AudioConfig, own: Mapping[str, Any], front_end: str) -> None:
    """Reject a length that the model does not take.

    Args:
        audio: The preprocessing.
        own: The preprocessing that the model's folder gives.
        front_end: See `Family.front_end`.

    Raises:
        RecipeError: If recordings can be longer or shorter than the model takes.
    """
    longest, window = audio.seconds or audio.max_seconds, own["seconds"]
    if window and (longest is None or longest > window):
        raise RecipeError(
            f"recordings of up to {longest or 'any number of'} seconds, but the model reads at "
            f"most {window:g}; lower `preprocessing.seconds`"
            + ("" if audio.seconds else " or `preprocessing.max_seconds`")
        )
    if front_end in ("kaldi", "clap") and audio.seconds is None:
        raise RecipeError("the model reads recordings of one length; set `preprocessing.seconds`")
    shortest = audio.seconds or audio.step_seconds
    if front_end != "clap" and shortest < MINIMUM_SECONDS:
        raise RecipeError(
            f"recordings of {shortest:g} s can be too short for the model; set "
            f"`preprocessing.{'seconds' if audio.seconds else 'step_seconds'}` to at least "
            f"{MINIMUM_SECONDS:g}"
        )
