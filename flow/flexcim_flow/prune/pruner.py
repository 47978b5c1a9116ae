"""The pipeline: a checkpoint and a text go in; a pruned model, its plan and its quantised layers come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from flexcim.files import new_folder
from flexcim.packed.tiling import tile_layer
from flexcim.quiet import quiet
from flexcim_flow.choice.budgets import pose
from flexcim_flow.choice.evidence import Evidence, Selection
from flexcim_flow.choice.problem import Choice, Problem, units_of
from flexcim_flow.common.journal import Journal
from flexcim_flow.common.steps import Progress, Steps
from flexcim_flow.layer.quantization import activation_scale
from flexcim_flow.layer.treatment import Numerics, prune_block
from flexcim_flow.measure.stages import Meter
from flexcim_flow.model.blocks import Block, LinearLayer
from flexcim_flow.model.checkpoint import Checkpoint, load_checkpoint
from flexcim_flow.passes.stream import BlockStream
from flexcim_flow.prune.calibration import Calibration, calibrate, check_abilities
from flexcim_flow.prune.recovery import recover
from flexcim_flow.prune.request import PruneRequest
from flexcim_flow.prune.result import Evaluations, PrunedLayer, PruneResult, quantized, quantized_dense
from flexcim_flow.samples.text import check_unseen, read_text
from flexcim_flow.samples.windows import EvaluationText, window_of

__all__ = ["problem_of", "prune"]


@quiet()
def prune(request: PruneRequest, *, progress: Progress | None = None, journal: Journal | None = None) -> PruneResult:
    """Prune a model for one macro.

    The calibration samples pass the dense model; the method then chooses a pattern that the macro's menu has for each
    layer, or block, unless a plan names them. A second pass prunes block by block: a block is measured on the outputs
    of the pruned blocks before it, masked, its kept weights updated, and run again. A recovery, if it is asked for,
    then trains the pruned model.

    With a journal the model's blocks are in memory one at a time, and pruned ones are stored in the journal's folder;
    without one the whole model is in memory, and nothing is written. The measured method has the whole model in memory
    while it chooses, under every pattern of the menu, if that takes no more than
    `flexcim_flow.choice.streamed.BENCH_BYTES`; otherwise one block under every pattern, and on disk the inputs of all
    blocks. A recovery has the whole model in memory, four times: weights, gradients and AdamW's two moments.

    Parameters
    ----------
    request : PruneRequest
        What is asked for.
    progress : callable, optional
        Told about each step.
    journal : Journal, optional
        Remembers what is finished, for this and later processes.

    Raises
    ------
    FlexCiMError
        If the checkpoint, a text or an option cannot be used; the message is one sentence.
    """
    # Before the model, which takes longer: a text that is not there is told at once.
    words = None if request.evaluation is None else read_text(request.evaluation)
    steps = Steps(progress)
    steps.begin("loading the model")
    checkpoint = load_checkpoint(request.model, streamed=journal is not None, device=request.place)
    length = window_of(request.length, checkpoint)
    check_abilities(request, checkpoint, length)
    problem = problem_of(request, checkpoint)
    calibration = calibrate(request, checkpoint, length)
    evaluation = None
    if words is not None:
        check_unseen(calibration.text, words)
        evaluation = EvaluationText.of(words, checkpoint, length, request.stride)
    run = _Run(request, checkpoint, calibration, steps, journal)
    steps.total = run.length
    meter = Meter(checkpoint, evaluation, run.once, steps.begin)

    meter.measure("dense")
    dense_scales = {} if evaluation is None else _scales(run)
    meter.measure("dense_quantized", lambda block: quantized_dense(block, request.config, dense_scales))
    selection = _choose(run, problem)
    choices = _choices(request, problem, selection)
    numerics, scales = _prune_blocks(run, choices)
    meter.measure("pruned")
    losses: tuple[float, ...] = ()
    if request.recover:
        losses = _recover(run)
        # The recovered model's activations are others, from the embeddings on.
        scales = _scales(run)
        meter.measure("recovered")
    layers = _layers(run, choices, scales)
    meter.measure("quantized", lambda block: quantized(layer for layer in layers if layer.block is block))
    return PruneResult(
        checkpoint=checkpoint,
        request=request,
        numerics=numerics,
        samples=calibration.samples,
        selection=selection,
        recovery=losses,
        layers=layers,
        evaluations=Evaluations(**meter.found) if meter.found else None,
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """What the steps of a run share."""

    request: PruneRequest
    checkpoint: Checkpoint
    calibration: Calibration
    steps: Steps
    journal: Journal | None

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.checkpoint.blocks

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """`Journal.once`, if there is a journal."""
        return find() if self.journal is None else self.journal.once(name, find)

    def stream(self) -> BlockStream:
        """The calibration samples before the first block."""
        return BlockStream(self.checkpoint.model, self.blocks, self.calibration.samples)

    @property
    def length(self) -> int:
        """The number of all steps."""
        measured = 0 if self.request.evaluation is None else 5 if self.request.recover else 4
        return 2 + len(self.blocks) + self.request.recover + measured


# -- choosing ----------------------------------------------------------------------------------------------------------


def problem_of(request: PruneRequest, checkpoint: Checkpoint) -> Problem | None:
    """What a method is asked; None if a plan answers it, which must fit the model and the macro.

    Raises
    ------
    FlexCiMError
        If the budget is out of reach, or the plan does not fit.
    """
    shapes = [(block.name, [(layer.name, layer.shape) for layer in block.layers]) for block in checkpoint.blocks]
    if request.plan is not None:
        names = [name for _, layers in shapes for name, _ in layers]
        request.plan.check(checkpoint.name, names, request.config.patterns)
        return None
    assert request.budget is not None, "a request has a budget or a plan"
    menu = request.selector.menu(request.config.patterns)
    return pose(units_of(shapes, by_block=request.by_block), menu, request.budget)


def _choose(run: _Run, problem: Problem | None) -> Selection | None:
    """Let the method choose, unless there is a plan."""
    run.steps.begin("choosing the patterns")
    if problem is None:
        return None
    request = run.request
    layers = {layer.name: layer for block in run.blocks for layer in block.layers}
    block_of = {layer.name: block for block in run.blocks for layer in block.layers}
    units = tuple(tuple(layers[name] for name in unit.layers) for unit in problem.units)
    selector = request.selector

    def select() -> dict[str, Any]:
        model, samples = run.checkpoint.model, run.calibration.samples
        needed = selector.needs(problem, units, samples)
        evidence = Evidence(
            model=model,
            units=units,
            dense={}
            if needed is None
            else BlockStream(model, run.blocks, needed.samples, moments=needed.moments).dense,
            treatment=request.treatment,
            samples=samples,
            guard=run.calibration.guard,
            mask=run.calibration.mask,
            seed=request.seed,
            blocks=run.blocks,
            once=run.once,
            loaded=lambda layer: block_of[layer.name].loaded(),
        )
        selection = selector.choose(problem, evidence)
        selection.check(request.chooser, problem)
        return selection.to_mapping()

    return Selection.from_mapping(run.once("selection", select))


def _choices(request: PruneRequest, problem: Problem | None, selection: Selection | None) -> Mapping[str, Choice]:
    """The choice for each layer, by its name: the plan's, or that of its unit."""
    if problem is None or selection is None:
        assert request.plan is not None, "a request has a budget or a plan"
        return request.plan.choices
    chosen = zip(problem.units, selection.assignment.choices, strict=True)
    return {name: choice for unit, choice in chosen for name in unit.layers}


# -- pruning -----------------------------------------------------------------------------------------------------------


def _prune_blocks(run: _Run, choices: Mapping[str, Choice]) -> tuple[dict[str, Numerics], dict[str, Tensor]]:
    """Prune block by block; give how the numbers of the layers went, and the scales of their activations, by name."""
    # Before a recovery no block is one of the result yet.
    shards = None if run.journal is None else run.journal.pruned if run.request.recover else run.journal.checkpoint
    stream = run.stream()
    numerics: dict[str, Numerics] = {}
    scales: dict[str, Tensor] = {}
    for index, block in enumerate(run.blocks):
        run.steps.begin(f"pruning block {index + 1} of {len(run.blocks)}")
        stored = shards is not None and run.checkpoint.resume(block, shards)
        with block.loaded():
            found = _prune_block(run, stream, block, choices) if block.layers and not stored else {}
            # Noted before the block is stored, so that it is there for the process that finds the block stored.
            noted = run.once(f"numerics-{index}", partial(_mapping, found))
            numerics |= {name: Numerics(**values) for name, values in noted.items()}
            if block.layers and not stored and shards is not None:
                run.checkpoint.store(block, shards)
            scales |= _advance(run, stream)
    return numerics, scales


def _prune_block(run: _Run, stream: BlockStream, block: Block, choices: Mapping[str, Choice]) -> dict[str, Numerics]:
    """Prune a block on the inputs that it gets; its weights are then what they will be on disk."""
    treatment = run.request.treatment
    patterns = {layer.name: choices[layer.name].pattern for layer in block.layers}
    found = prune_block(block, patterns, treatment, stream.measure(moments=treatment.needs_moments))
    run.checkpoint.settle(block)
    return found


def _mapping(numerics: Mapping[str, Numerics]) -> dict[str, Any]:
    """JSON's plain values of each."""
    return {name: asdict(of_layer) for name, of_layer in numerics.items()}


def _scales(run: _Run) -> dict[str, Tensor]:
    """Scales of the activations in the model as it is, by the layer's name; none if each token has its own."""
    scales: dict[str, Tensor] = {}
    if run.request.percentile is not None:
        stream = run.stream()
        for _ in run.blocks:
            scales |= _advance(run, stream)
    return scales


def _advance(run: _Run, stream: BlockStream) -> dict[str, Tensor]:
    """Pass a block, and give the scales of its layers' activations by name; none if each token has its own."""
    percentile = run.request.percentile
    if percentile is None:
        stream.skip()
        return {}
    return {
        name: activation_scale(magnitudes.percentile(percentile), run.request.config.activation_bits)
        for name, magnitudes in stream.advance().items()
    }


# -- recovering --------------------------------------------------------------------------------------------------------


def _recover(run: _Run) -> tuple[float, ...]:
    """Train the pruned model, and give the loss of each step.

    With a journal the trained model appears on disk at once and as a whole: a process that is killed before has trained
    for nothing, and the next one begins again with the pruned blocks, which are still there.
    """
    checkpoint, journal = run.checkpoint, run.journal
    if journal is None:
        losses = _train(run)
    elif journal.recovered.exists():
        run.steps.skip(run.request.recover)
        losses = journal.once("recovery", list)
    else:
        with checkpoint.whole():
            trained = _train(run)
            losses = journal.once("recovery", lambda: trained)
            with new_folder(journal.recovered) as folder:
                checkpoint.store_trained(folder)
    if journal is not None:
        checkpoint.resume_trained(journal.recovered)
    return tuple(losses)


def _train(run: _Run) -> tuple[float, ...]:
    request, model = run.request, run.checkpoint.model
    model.to(request.place)  # where its blocks are already
    losses = recover(
        model,
        [layer for block in run.blocks for layer in block.layers],
        run.calibration.tokens,
        steps=request.recover,
        length=run.calibration.length,
        seed=request.seed,
        begin=lambda step: run.steps.begin(f"recovering, step {step} of {request.recover}"),
    )
    model.to("cpu")
    run.checkpoint.settle_trained()
    return losses


# -- what comes out ----------------------------------------------------------------------------------------------------


def _layers(run: _Run, choices: Mapping[str, Choice], scales: Mapping[str, Tensor]) -> tuple[PrunedLayer, ...]:
    """The records of all layers, whose zeros are counted."""
    layers: list[PrunedLayer] = []
    for block in run.blocks:
        with block.loaded():
            layers += [_layer(run, block, layer, choices[layer.name], scales.get(layer.name)) for layer in block.layers]
    return tuple(layers)


def _layer(run: _Run, block: Block, layer: LinearLayer, choice: Choice, scale: Tensor | None) -> PrunedLayer:
    return PrunedLayer(
        name=layer.name,
        block=block,
        layer=layer,
        choice=choice,
        tiling=tile_layer(run.request.config, *layer.shape, choice.pattern),
        zeros=int((layer.weight == 0).sum()),
        activation_scale=scale,
    )
