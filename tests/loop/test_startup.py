"""What a process loads before its first step: no part of torch that only several processes, or checkpoints, need."""

import subprocess
import sys

IMPORT = """
import sys
import torch
before = set(sys.modules)
import d9d.loop.run
"""
INFER = """
from d9d.loop import config, control, run
from torch import nn
from torch.utils.data import TensorDataset

class Task(control.InferenceTask):
    def build_forward_inputs(self, ctx):
        return control.BuildForwardInputsResult(inputs={"input": ctx.batch[0]})

    def process_outputs(self, ctx):
        pass

class Model(control.ModelProvider):
    def initialize_model_stage(self, ctx):
        return control.InitializeModelStageResult(model=nn.Linear(2, 1))

reporting = config.ReportingConfig(progress_bar=False, period_steps=None)
run.InferenceConfigurator(
    config=config.InferenceConfig(global_batch_size=2, device="cpu", reporting=reporting),
    task=Task(),
    model_provider=Model(),
    dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=TensorDataset(torch.ones(4, 2))),
).configure().infer()
"""
PRINT = "print(*sorted(set(sys.modules) - before))"

SHARDING = {"torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.pipelining"}
CHECKPOINTS = {"torch.distributed.checkpoint", "d9d.loop.component.checkpoint.tensor_files"}
CONSOLE = {"tqdm", "tensorboard"}
LAUNCHER = {"torch.distributed.elastic.multiprocessing", "torch.numa"}


def loaded_by(program: str) -> set[str]:
    """Return the modules that a program loads in a fresh interpreter, beside those of `import torch`."""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_importing_the_loops_loads_nothing_that_one_process_can_do_without() -> None:
    """These parts take several times as long to load as all of the loops."""
    needless = SHARDING | CHECKPOINTS | CONSOLE | LAUNCHER | {"sympy", "torch._dynamo"}
    assert loaded_by(IMPORT + PRINT) & needless == set()


def test_inference_in_one_process_without_checkpoints_loads_none_of_it_either() -> None:
    """Whether anything is sharded is told without loading what shards. In training torch's optimizers load it."""
    assert loaded_by(IMPORT + INFER + PRINT) & (SHARDING | CHECKPOINTS | LAUNCHER) == set()
