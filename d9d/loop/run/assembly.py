"""Assembling a run: what the training and the inference configurator share."""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.loop_control import LoopControl
from d9d.core.protocol import Stateful
from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.job_state import JobState, find_stateful_objects, has_state
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.results import EvaluationResults
from d9d.loop.component.checkpoint.resume import find_origin
from d9d.loop.component.checkpoint.sharded_state import ModelState, describe_model
from d9d.loop.component.checkpoint.source import SourceWeights, find_source, tensors_in
from d9d.loop.component.checkpoint.state_dict import TensorInfo
from d9d.loop.component.checkpoint.storage import Checkpoint, describe_job, prepare_folder
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping
from d9d.loop.component.console import Console
from d9d.loop.component.data import DeviceTransfer
from d9d.loop.component.evaluation import Evaluation, require_evaluations
from d9d.loop.component.exchange import Exchange
from d9d.loop.component.model import (
    ModelRunner,
    ModelStage,
    WholeModelRunner,
    build_model_stage,
    require_own_names,
    require_synchronized,
)
from d9d.loop.component.pipeline import PipelineRunner
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState, prepare_distributed_operations
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import Reporter, build_reporter
from d9d.loop.component.sampler import DataShare, Epochs, SequentialSteps
from d9d.loop.component.shutdown import Shutdown
from d9d.loop.component.sinks import Sink, build_file_sinks
from d9d.loop.component.tied_weights import TiedWeights
from d9d.loop.component.weight_init import initialize_weights
from d9d.loop.config import ConfigurationError, LoopConfig
from d9d.loop.control import (
    BaseTask,
    DatasetProvider,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeModuleContext,
    ModelProvider,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
)
from d9d.loop.control.provider import as_dataset_provider, describe_kind, expect_result, require_instance
from d9d.loop.run.loop import GarbageCollector, Loop, Moments, Service
from d9d.loop.run.subscribers import (
    Registrations,
    Subscriber,
    SubscriberSource,
    named_subscribers,
    refuse_foreign_handlers,
    refuse_late_handlers,
    states_of,
)


def require_task(task: object, kind: type[BaseTask]) -> None:
    """Refuse a task of another kind.

    Args:
        task: The argument `task` of a configurator.
        kind: What it must be.

    Raises:
        ConfigurationError: If it is a torch module.
        TypeError: If it is anything else.
    """
    if isinstance(task, kind) and isinstance(task, nn.Module):
        raise ConfigurationError(
            f"the task, a {type(task).__qualname__}, is a torch module as well. Its weights would be neither moved "
            "nor trained: put them into the model, or keep the module in an attribute of the task"
        )
    require_instance("task", task, kind, remedy=f"pass an object of a class that derives from {kind.__qualname__}")


def require_names(argument: str, objects: object) -> None:
    """Refuse objects without names.

    Args:
        argument: The argument of a configurator.
        objects: What was given: a mapping, or `None`.

    Raises:
        TypeError: If it is anything else.
    """
    if objects is not None:
        remedy = f"pass a mapping from names to objects, {argument}={{'name': ...}}"
        require_instance(argument, objects, Mapping, remedy=remedy)


def require_stateful(objects: object) -> None:
    """Refuse objects without names or without state.

    Args:
        objects: The argument `stateful` of a configurator.

    Raises:
        TypeError: If it is neither `None` nor a mapping of objects with state.
    """
    require_names("stateful", objects)
    for name, candidate in objects.items() if isinstance(objects, Mapping) else ():
        if not has_state(candidate):
            raise TypeError(
                f"stateful[{name!r}] is {describe_kind(candidate)}, which has no state to save: pass an object with "
                "state_dict and load_state_dict"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembly:
    """A run while it is assembled: what the user gave, and the process that it runs in.

    A configurator calls the methods in the order in which the events of its configuration are declared.

    Attributes:
        name: The kind of run in reports: `train` or `infer`.
        config: The settings of the run.
        task: The user's task.
        providers: The user's providers by the names under which checkpoints keep their state.
        stateful: Further objects of the user whose state belongs into checkpoints, by name.
        subscribers: The user's subscribers.
        registrations: What is subscribed on the bus of the run.
        saved: The objects whose state is in checkpoints, once they are found.
        moments: The events of the run.
        control: Takes the requests of handlers.
        sinks: Where reports go; none on any but the main process.
        evaluations: The evaluations of the run by name; none for inference.
        dist_context: The processes of the job, and the device of this one.
        ranks: The same processes, for what they do together.
        random_state: The random number generators of this process, seeded alike on all ranks.
    """

    name: str
    config: LoopConfig
    task: BaseTask
    providers: Mapping[str, object]
    stateful: Mapping[str, Stateful]
    subscribers: Sequence[Subscriber]
    registrations: Registrations
    saved: list[object] = dataclasses.field(default_factory=list)
    moments: Moments
    control: LoopControl
    sinks: Sequence[Sink]
    evaluations: Mapping[str, Evaluation]
    dist_context: DistributedContext
    ranks: Ranks
    random_state: RandomState

    @classmethod
    def start(
        cls,
        name: str,
        config: LoopConfig,
        *,
        moments: Moments,
        task: BaseTask,
        model_provider: ModelProvider,
        providers: Mapping[str, object],
        subscribers: SubscriberSource,
        stateful: Mapping[str, Stateful] | None,
        evaluations: Mapping[str, Evaluation] | None = None,
        exits: contextlib.ExitStack | None = None,
    ) -> Self:
        """Join the processes of the job, seed, and register the handlers of tasks, model provider and subscribers.

        The arguments are the attributes of the same names, and `exits`: if it is given, it restores the random number
        generators.

        Raises:
            ConfigurationError: If the subscribers are not what a configurator takes, or checkpoints could not be
                written.
            RuntimeError: If this machine does not have the device.
        """
        named = named_subscribers(subscribers)
        if config.checkpointing is not None:
            prepare_folder(config.checkpointing.folder)
        dist_context = DistributedContext.start(
            config.device, config.mesh, dt.timedelta(seconds=config.timeouts.start_seconds)
        )
        random_state = RandomState(dist_context.device)
        if exits is not None:
            exits.enter_context(random_state.preserved())
        prepare_distributed_operations(dist_context, config.seed)
        random_state.seed(config.seed)
        evaluations = evaluations or {}
        if evaluations:
            require_evaluations(evaluations)
        keep_best = None if config.checkpointing is None else config.checkpointing.keep_best
        if keep_best is not None and keep_best.evaluation not in evaluations:
            raise ConfigurationError(
                f"checkpointing.keep_best.metric is {keep_best.metric!r}, and there is no evaluation named "
                f"{keep_best.evaluation!r}: this run has {', '.join(map(repr, evaluations)) or 'none'}. Give "
                "TrainingConfigurator evaluations={...}"
            )
        own_tasks = {
            f"evaluation {name}": evaluation.task
            for name, evaluation in evaluations.items()
            if evaluation.task is not None and evaluation.task is not task
        }
        own_data = {
            f"evaluation {name} dataset_provider": as_dataset_provider(evaluation.dataset_provider)
            for name, evaluation in evaluations.items()
        }
        control = LoopControl(evaluations=tuple(evaluations))
        bus = moments.event_bus
        # They come first: a report is written before handlers of users act on it, or raise because of it.
        sinks: list[Sink] = []
        if dist_context.is_main_process:
            sinks = build_file_sinks(name, config.reporting)
            if not config.reporting.is_quiet:
                sinks.insert(0, Console(name, config, dist_context))
        for sink in sinks:
            sink.subscribe(bus, moments)
        providers = {"model_provider": model_provider, **providers, **own_tasks, **own_data}
        owners = {"task": task, **providers, **{f"subscriber {each.name!r}": each.target for each in named}}
        registrations = Registrations(bus, owners)
        context = RegisterTaskEventsContext(event_bus=bus, dist_context=dist_context, control=control)
        task.register_events(context)
        model_provider.register_events(
            RegisterModelEventsContext(event_bus=bus, dist_context=dist_context, control=control)
        )
        for own_task in {id(own): own for own in own_tasks.values()}.values():
            own_task.register_events(context)
        registrations.register(named, context)
        return cls(
            name=name,
            config=config,
            task=task,
            providers=providers,
            stateful=stateful or {},
            subscribers=named,
            registrations=registrations,
            moments=moments,
            control=control,
            sinks=sinks,
            evaluations=evaluations,
            dist_context=dist_context,
            ranks=Ranks.of(dist_context),
            random_state=random_state,
        )

    @property
    def data_share(self) -> DataShare:
        """Which part of each global batch this process reads."""
        return DataShare(self.dist_context.data_parallel_rank, self.dist_context.mesh_parameters.data_parallel_size)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint of this run, complete or not; all ranks call this."""
        own = self.config.checkpointing
        return own is not None and self.ranks.run_on_rank_zero(lambda: bool(Checkpoint.list_in(own.folder)))

    @property
    def saves_trainable_only(self) -> bool:
        """Whether checkpoints of this run leave out frozen weights."""
        return self.config.checkpointing is not None and self.config.checkpointing.trainable_only

    def find_source(self, mapping: WeightMapping) -> SourceWeights | None:
        """Find the weights that `source_checkpoint` names; all ranks call this.

        Args:
            mapping: How they correspond to those of the model.

        Raises:
            CheckpointError: On all ranks, if there are none.
        """
        paths = self.config.source_checkpoint
        if paths is None:
            return None
        paths = (paths,) if isinstance(paths, Path) else paths
        return SourceWeights(tuple(find_source(path, self.ranks) for path in paths), mapping)

    def verify_handlers(self, *, has_epochs: bool = False) -> None:
        """Refuse handlers that can never be called, and log those that this configuration never calls.

        All ranks call this.

        Args:
            has_epochs: Whether the data has passes.

        Raises:
            ConfigurationError: On all ranks, if a handler can never be called.
        """
        moments = self.moments
        namespace = moments.ready.id.partition(".")[0]
        epochs = [f"{namespace}.epoch.{side}" for side in ("start", "finished")]
        evaluations = [f"{namespace}.evaluation.{side}" for side in ("start", "finished")]
        silent: dict[str, str] = {}
        if self.config.checkpointing is None:
            saves = (moments.checkpoint_loaded, moments.checkpoint_started, moments.checkpoint_saved)
            silent |= dict.fromkeys((event.id for event in saves), "the run has no checkpointing")
        if not has_epochs:
            silent |= dict.fromkeys(epochs, "its data is iterable")
        if not self.evaluations:
            silent |= dict.fromkeys(evaluations, "the run has no evaluations")
        if self.config.reporting.period_steps is None and not self.evaluations:
            silent[moments.report_ready.id] = "reporting.period_steps is None"
        self.registrations.verify(self.ranks, namespace=namespace, silent=silent)
        refuse_foreign_handlers(moments.event_bus, namespace)

    def provide_dataset(self, provider: DatasetProvider) -> InitializeDatasetResult:
        """Call the dataset provider.

        Raises:
            ConfigurationError: If it returns anything else than its result.
        """
        result = provider(InitializeDatasetContext(dist_context=self.dist_context))
        return expect_result(result, InitializeDatasetResult, provider)

    def build_reporter(self, stepper: Stepper, count_samples: Callable[[int], int] | None = None) -> Reporter:
        """Create the metrics of the task, and the reporter.

        Args:
            stepper: Counts the steps.
            count_samples: Returns how many samples the steps before a step have; by default each has
                `global_batch_size`.

        Raises:
            ConfigurationError: On all ranks, if metrics cannot be reported, or reports cannot be written.
        """
        for sink in self.sinks:
            sink.guard.stepper = stepper
        return build_reporter(
            self.config,
            task=self.task,
            subscribers=[each.target for each in self.subscribers],
            stepper=stepper,
            dist_context=self.dist_context,
            count_samples=count_samples,
        )

    def build_housekeeping(self, stepper: Stepper) -> list[Service]:
        """Build the optional services that are configured. This list is the place to add one."""
        config = self.config
        services: list[Service] = []
        if config.garbage_collection_period_steps is not None:
            services.append(GarbageCollector(config.garbage_collection_period_steps, stepper))
        if config.profiling is not None:
            services.append(Profiler(config.profiling, self.dist_context, stepper))
        return services

    def build_stages(
        self, provider: ModelProvider, source: SourceWeights | None, resume_mapping: WeightMapping | None = None
    ) -> tuple[list[ModelStage], TiedWeights]:
        """Build all stages of the model that this process holds, and initialise weights that will not be loaded.

        Args:
            provider: Builds the stages.
            source: The weights to start from, if any; they are compared with the model, and loaded later.
            resume_mapping: How the weights in checkpoints of this run correspond to those of the model.

        Returns:
            The stages, in pipeline order, and the weights that they share with other stages.

        Raises:
            CheckpointError: On all ranks, if the weights to start from do not fit the model.
            ConfigurationError: On all ranks, if a weight cannot be initialised, two stages use one name for a weight,
                or gradients would not be summed over processes.
        """
        config, dist_context = self.config, self.dist_context
        positions = config.pipeline.stages_of(dist_context.pipeline_rank, config.mesh.pipeline_parallel)
        stages = [build_model_stage(provider, dist_context, position) for position in positions]
        modules = [stage.module for stage in stages]
        require_own_names(stages, self.ranks)
        tied = TiedWeights(stages, dist_context)
        loaded = self._names_to_load(modules, source, tied.names, resume_mapping or WeightMapping())

        def initialize_module(name: str, module: nn.Module) -> bool:
            is_initialized: object = provider.initialize_module(InitializeModuleContext(name=name, module=module))
            return expect_result(is_initialized, bool, provider.initialize_module)

        def initialize() -> None:
            for module in modules:
                initialize_weights(
                    module, device=dist_context.device, seed=config.seed, initialize=initialize_module, loaded=loaded
                )

        self.ranks.run_on_all_ranks(initialize)
        tied.copy_values()
        require_synchronized(modules, dist_context, schedule=config.pipeline.schedule if len(modules) > 1 else None)
        if not self.ranks.is_alone:
            describe_model(modules, self.ranks, tied.names)  # refuses weights that have drifted apart
        return stages, tied

    def _names_to_load(
        self,
        modules: Sequence[nn.Module],
        source: SourceWeights | None,
        tied: Mapping[str, str],
        resume_mapping: WeightMapping,
    ) -> set[str]:
        """Return the names of the weights that will be loaded from a checkpoint of this run, or from the source."""
        names: set[str] = set()
        if source is not None:
            names |= dataclasses.replace(source, tied=tied).plan(modules, self.ranks).recipes.keys()
        own = self.config.checkpointing
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        is_on_meta = any(self.ranks.gather(any(tensor.is_meta for tensor in tensors)))
        if own is not None and self.name == "train" and is_on_meta:

            def find() -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
                origin = find_origin(own.folder, self.config.resume)
                weights = {} if origin is None else origin.checkpoint.open().weights()
                infos = {name: info for name, (_, info) in weights.items()}
                return infos, resume_mapping.weights_in_model(infos)

            saved, mapped = self.ranks.run_on_rank_zero(find)
            state = ModelState(modules, tied)
            has_changed = any(self.ranks.gather(not state.weights().keys() <= saved.keys()))
            here = tensors_in(state.weights())
            names |= {
                name
                for name, info in (mapped if has_changed else saved).items()
                if not resume_mapping.is_replaced(name, here.get(name, info), info)
            }
        aliases = {**ModelState(modules, tied).aliases(), **tied}
        return names | {alias for alias, name in aliases.items() if name in names}

    def build_runner(self, stages: Sequence[ModelStage], stepper: Stepper) -> ModelRunner:
        """Build what runs the model: as a pipeline where the mesh has one, else as a whole."""
        runner = PipelineRunner if self.config.mesh.pipeline_parallel > 1 else WholeModelRunner
        return runner(stages, task=self.task, stepper=stepper, config=self.config, dist_context=self.dist_context)

    def seed_per_rank(self) -> None:
        """Give processes with other samples or other layers other random numbers from here on.

        Until then all draw the same, so that they make the same data and the same weights. Processes of one tensor
        parallel group keep the same, since they hold the same activations.
        """
        if self.dist_context.world_size > 1:
            place = self.dist_context.mesh_for("loss").get_local_rank("loss")
            self.random_state.seed(derive_seed(self.config.seed, "process", place))

    def find_stateful(self, modules: Sequence[nn.Module], others: Iterable[object]) -> dict[str, Stateful]:
        """Find the objects besides the parts of the loop whose state belongs into checkpoints; all ranks call this.

        Args:
            modules: The stages of the model, whose state is saved with it.
            others: Objects whose state is saved elsewhere.

        Returns:
            Providers, subscribers, and what the user named, by name; nothing without checkpointing.
        """
        if self.config.checkpointing is None:
            return {}
        others = [self.task, *others]
        found = find_stateful_objects(
            {**self.providers, **states_of(self.subscribers)},
            self.stateful,
            self.moments.event_bus.subscribers,
            others=others,
            modules=modules,
            ranks=self.ranks,
        )
        self.saved.extend((*others, *(layer for module in modules for layer in module.modules()), *found.values()))
        return found

    def _ranks_on_host(self) -> Ranks:
        """Return all ranks with a process group that nothing else uses, and that has the timeouts of the job."""
        if self.ranks.is_alone:
            return self.ranks
        return Ranks(self.ranks.rank, self.ranks.num_ranks, self.dist_context.new_host_group())

    def build_loop(
        self,
        *,
        stepper: Stepper,
        data_loader: DataLoader[Any],
        modules: Sequence[nn.Module],
        source: SourceWeights | None,
        tied: TiedWeights,
        reporter: Reporter,
        housekeeping: Sequence[Service],
        state: JobState,
        settings: Mapping[str, Any],
        require_savable: Callable[[], None] = lambda: None,
        epochs: Epochs | None = None,
        steps: SequentialSteps | None = None,
    ) -> Loop:
        """Build the loop.

        Args:
            stepper: Counts the steps.
            data_loader: Yields one micro-batch after the other.
            modules: The stages of the model that this process holds.
            source: The weights to start from, if any.
            tied: The weights that stages share with other stages.
            reporter: Reports the numbers of the run.
            housekeeping: The optional services.
            state: The state of the job.
            settings: The settings of this kind of run that a checkpoint records, to compare them when a run resumes.
            require_savable: Called before each save; raises, on all ranks, if the state must not be saved.
            epochs: The passes over the training data; `None` if it has none.
            steps: Which samples each step of inference takes; `None` for training.
        """
        config = self.config
        shutdown = Shutdown(self.dist_context, stepper, config.timeouts)
        results = None
        if self.evaluations:
            keep_best = None if config.checkpointing is None else config.checkpointing.keep_best
            results = EvaluationResults(keep_best, stepper)
        checkpointer = Checkpointer(
            config.checkpointing,
            stepper=stepper,
            state=state,
            settings={
                "global_batch_size": config.global_batch_size,
                "micro_batch_size": config.samples_per_micro_batch,
                "seed": config.seed,
                "precision": config.precision,
                **settings,
            },
            ranks=self.ranks,
            job_metadata=describe_job(config),
            resume=config.resume,
            require_savable=require_savable,
            epochs=epochs,
            steps=steps,
            results=results,
        )
        saved = None if config.checkpointing is None else self.saved
        refuse_late_handlers(self.moments.event_bus, self.moments.has_passed, saved)
        return Loop(
            moments=self.moments,
            stepper=stepper,
            control=self.control,
            exchange=Exchange(self._ranks_on_host(), tuple(self.evaluations)),
            ranks=self.ranks,
            modules=modules,
            source=None if source is None else dataclasses.replace(source, tied=tied.names),
            random_state=self.random_state,
            data_loader=data_loader,
            device_transfer=DeviceTransfer(self.dist_context.device),
            shutdown=shutdown,
            reporter=reporter,
            checkpointer=checkpointer,
            housekeeping=housekeeping,
        )
