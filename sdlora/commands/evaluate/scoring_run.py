"""An evaluation: drawing and scoring of base and LoRAs on the same prompts and noise."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image

from sdlora.adapters.file_content import refuse_other_family
from sdlora.adapters.formats import apply_lora, read_lora, remove_lora
from sdlora.adapters.learned_embedding import learned
from sdlora.adapters.lora import lora_parameters
from sdlora.adapters.strength import merged, set_scale
from sdlora.adapters.textual_inversion import load_embeddings
from sdlora.adapters.weight_updates import scale_updates
from sdlora.assembly import base_model, scorers
from sdlora.assembly.device import DTYPES, compute_device
from sdlora.assembly.family_limits import check_model
from sdlora.assembly.loss import check_sampler_of_base
from sdlora.assembly.new_word import embeddings_of, teach
from sdlora.assembly.unsuited_values import drawn_scorers_note, drawn_world_notes
from sdlora.commands.evaluate.scoring_inputs import (
    NamedLora,
    ScoringInputs,
    labels_of_folders,
    scoring_inputs,
)
from sdlora.commands.printed_scores import print_scores, refuse_no_score, say_not_taken
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.lora import NewWordConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.data.pictures.decode import read_picture
from sdlora.data.pictures.picture import ERROR
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.flat_folder import pictures_directly_in
from sdlora.evaluation.evaluated import Evaluation
from sdlora.evaluation.evaluator import Evaluator, score_training
from sdlora.evaluation.scoring import KnownPictures, Pictures, Scorer
from sdlora.models.base_noise import base_noise
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.loading import check_parts
from sdlora.reports.page import write_html_report
from sdlora.runs.nearest import write_nearest
from sdlora.runs.report import REPORT, write_report
from sdlora.runs.run_config import read_config
from sdlora.runs.samples import PROMPTS, read_prompts, write_grid, write_pictures, write_prompts
from sdlora.runtime import versions
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt, prior_prompts, prompts_of


def evaluate(config: EvaluateConfig, folder: Path, progress: Progress) -> Path:
    """Draw and score base and LoRAs, or score pictures; write pictures, grid and reports.

    Returns:
        ``report.json``.
    """
    inputs = scoring_inputs(config, progress)
    if not config.images:
        check_model(inputs.model)
        base, run = base_noise(base_model.drawing_source(inputs.model)), config.run
        trained_to = (None, False) if run is None else _trained_to(Path(run))
        check_sampler_of_base(config.sampling.sampler, base, *trained_to)
    prompts = None if config.images else config.sampling.prompts
    for note in drawn_world_notes(inputs.model, prompts, config.evaluation):
        progress.print(f"note: {note}")
    training = scorers.training_pictures(config.evaluation, inputs.training)
    _say_left_out(inputs, training, progress)
    device = compute_device(config.accelerator)
    scorer = scorers.scorer(config.evaluation, inputs.references, training, device, progress)
    if config.images:
        rows = _of_folders(config, inputs.model, scorer, progress)
    else:
        rows = _of_loras(config, inputs, scorer, training, progress)
    return _write(config, inputs, folder, rows, scorer, training, progress)


def _say_left_out(inputs: ScoringInputs, training: KnownPictures, progress: Progress) -> None:
    """Print the training pictures that cannot be read and so are not compared with."""
    if inputs.training is None or not training.images:
        return
    for finding in inputs.training.findings:
        if finding.severity == ERROR:
            progress.print(f"left out: {finding}")
    tried = [picture.name for picture in inputs.training.pictures[: scorers.MOST_REFERENCES]]
    if unread := [name for name in tried if name not in set(training.names)]:
        progress.print(f"left out, since they cannot be read: {', '.join(unread)}")


def _of_loras(
    config: EvaluateConfig,
    inputs: ScoringInputs,
    scorer: Scorer,
    training: KnownPictures,
    progress: Progress,
) -> dict[str, Evaluation]:
    """Draw and score the base and each LoRA, in a model that is loaded once."""
    prompts = prompts_of(config.sampling, inputs.captions)
    prior = prior_prompts(config.sampling, config.evaluation, inputs.captions)
    # merged weights are those of the base as it is
    base = replace(inputs.model, quantise=None) if config.merge else inputs.model
    check_parts(base_model.drawing_source(base))
    family = base_model.load_to_draw(base, config.precision, seed=0)
    if config.run is not None:
        _as_trained(family, Path(config.run))
    else:
        for lora in inputs.loras:
            if (embeddings := embeddings_of(lora.path)) is not None:
                progress.print(
                    f"warning: {embeddings} is left out: new words are supported with run= only"
                )
    evaluator = Evaluator(
        family=family,
        sampling=config.sampling,
        prompts=prompts,
        prior_prompts=prior,
        resolution=inputs.resolution or family.native_resolution_px,
        precision=DTYPES[config.precision],
        scorer=scorer,
        progress=progress,
    )
    _place(evaluator, compute_device(config.accelerator), inputs.model.family)
    rows = {"base": evaluator.draw_base()}
    for lora in progress.track(inputs.loras, "LoRAs"):
        with _applied(family, inputs.model.family, lora, config, progress) as scale:
            rows[lora.label] = evaluator.draw(lora_scale=scale)
    return rows


def _place(evaluator: Evaluator, device: torch.device, model: str) -> None:
    """Put the model on the device; text encoders that no LoRA changes encode all prompts before."""
    family = evaluator.family
    if description_of(model).trainable_encoders or not family.text_encoders:
        family.place(device)
        return
    family.keep_prompts(True)
    family.place(device, [name for name, _ in family.named_children()])
    evaluator.encode_prompts()
    family.place(device, family.text_encoders)


def _as_trained(family: Family, run: Path) -> None:
    """Set noise schedule and new word of the run; the base keeps its own noise schedule.

    The base has the new word too, with its initial embeddings.
    """
    stored, _ = read_config(run, key="run")
    if (word := stored["lora"].get("new_word", {})).get("name"):
        teach(family, NewWordConfig(**word))
    family.change_noise_schedule(*_trained_to(run))


def _trained_to(run: Path) -> tuple[str | None, bool]:
    """What a run trained the base to predict, and whether to zero terminal SNR."""
    objective = read_config(run, key="run")[0]["objective"]
    return objective["prediction_type"], objective.get("zero_terminal_snr", False)


@contextmanager
def _applied(
    family: Family,
    model: str,
    lora: NamedLora,
    options: EvaluateConfig,
    progress: Progress,
) -> Iterator[float]:
    """Apply a LoRA to the model, inside the block; yields the strength for drawing."""
    modules, merge = family.parts, options.merge
    words, embeddings = list(learned(*modules.values())), embeddings_of(lora.path)
    if words and embeddings is not None:
        load_embeddings(embeddings, modules, description_of(model).trainable)
    if not words or lora.path.exists():  # a run may learn a word alone
        found = read_lora(
            lora.path,
            int(family.denoiser.config.get("layers_per_block", 2)),
            skip_unknown=options.lora_skip_unknown,
        )
        refuse_other_family(lora.path, found, model)
        kinds = {each.title for own in found.updates.values() for each in own.values()}
        if kinds and options.precision != "fp32":
            progress.print(
                f"note: {lora.path.name}: {', '.join(sorted(kinds))} changes the weights "
                "themselves, which 16 bits round: a weak one is scored too weak; "
                "precision=fp32 is exact"
            )
        for line in found.left_out:
            progress.print(f"left out of {lora.path.name}: {line}")
        apply_lora(modules, found)
        for module in modules.values():
            scale_updates(module, lora.scale)
    try:
        with ExitStack() as stack:
            for word in words if merge else ():
                word.strength = lora.scale
            for module in modules.values() if merge else ():
                if lora_parameters(module):
                    set_scale(module, lora.scale)
                    stack.enter_context(merged(module))
            yield 1.0 if merge else lora.scale
    finally:
        remove_lora(*modules.values())
        for word in words:
            word.strength = 1.0


def _of_folders(
    config: EvaluateConfig, model: ModelConfig, scorer: Scorer, progress: Progress
) -> dict[str, Evaluation]:
    """Score pictures of other programs, a row for each folder."""
    labels = labels_of_folders(config.images)
    found = {label: _read(located(folder)) for label, folder in labels.items()}
    sizes = (image.size for images, _ in found.values() for image in images)
    if note := drawn_scorers_note(model, config.evaluation, sizes):
        progress.print(f"note: {note}")
    rows = {}
    for label, (images, texts) in found.items():
        known = [text for text in texts.values() if text is not None]
        pictures = Pictures(images, known if len(known) == len(images) else None)
        scores = scorer.score(pictures, progress)
        prompts = [Prompt(text or "", seed=0) for text in texts.values()]
        rows[label] = Evaluation(prompts, images, scores)
    return rows


def _read(folder: Path) -> tuple[list[Image.Image], dict[str, str | None]]:
    """The pictures of a folder, and their known prompts by name."""
    if not folder.is_dir():
        raise ConfigError(f"images={folder}: no such folder")
    paths = pictures_directly_in(folder)
    if not paths:
        raise ConfigError(f"images={folder}: holds no picture")
    listed = _listed_prompts(folder)
    images, texts = [], {}
    for path in paths:
        try:
            images.append(read_picture(path))
            beside = path.with_suffix(".txt")
            own = beside.read_text("utf-8-sig").strip() if beside.is_file() else None
        except (PictureError, UnicodeDecodeError) as error:
            raise ConfigError(f"images={folder}: {path.name}: {error}") from error
        texts[path.name] = listed.get(path.name, own)
    return images, texts


def _listed_prompts(folder: Path) -> dict[str, str]:
    """File -> prompt, from a ``prompts.json`` in the folder or beside it."""
    beside = folder if (folder / PROMPTS).is_file() else folder.parent
    return {name: text for name, text in read_prompts(beside).items() if text}


def _write(
    config: EvaluateConfig,
    inputs: ScoringInputs,
    folder: Path,
    rows: Mapping[str, Evaluation],
    scorer: Scorer,
    training: KnownPictures,
    progress: Progress,
) -> Path:
    scores = {name: item.scores for name, item in rows.items() if item.scores is not None}
    real = score_training(inputs.training, scorer, progress) if inputs.training else None
    folders = _folder_names(list(rows))
    for name, item in rows.items():
        write_pictures(folder / folders[name], item)
    write_prompts(folder, [item.prompts for item in rows.values()])
    count = config.sampling.num_preview
    write_grid(folder / "grid.png", rows, count, training.images[:count])
    used = {**asdict(config), "model": asdict(inputs.model)}  # a run brings its own
    settings = {"config": used, "versions": versions.versions()}
    has_base = not config.images
    write_report(folder, scores, settings=settings, floor=real, pictures=folders, has_base=has_base)
    last = list(rows)[-1]
    if inputs.training is not None:
        prompts = rows[last].prompts
        write_nearest(folder, scores[last], prompts, inputs.training, folders[last])
    print_scores(scores, real, progress, has_base=has_base)
    write_html_report(folder)
    progress.print(
        f"\nWritten: {folder / 'report.html'}, {folder / REPORT}, grid.png and the pictures"
    )
    say_not_taken(scorer, progress)
    refuse_no_score(scores)
    return folder / REPORT


def _folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Label -> a unique folder name that is valid on every system."""
    names: dict[str, str] = {}
    for label in labels:
        name = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.") or "pictures"
        while name in names.values():
            name += "-2"
        names[label] = name
    return names
