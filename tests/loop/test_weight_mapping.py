"""Rules say how weights in files correspond to those of a model, in both directions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from d9d import (
    CheckpointError,
    CheckpointingConfig,
    ConfigurationError,
    InitializeModelStageContext,
    RenameFunction,
    WeightMapping,
    WeightRule,
)
from d9d.loop.component.checkpoint.export import WeightExporter
from d9d.loop.component.checkpoint.source import SourceWeights, find_source, load_weights
from d9d.loop.component.checkpoint.state_dict import Region, TensorInfo
from d9d.loop.component.checkpoint.weight_mapping import Recipe, follow
from d9d.loop.component.ranks import ALONE

from .toy_job import (
    ToyModelProvider,
    configure_training,
    cpu_context,
    same_tensors,
    training_config,
    weights_of,
)

Tensors = dict[str, torch.Tensor]


class Weights(nn.Module):
    """Has a parameter for each given tensor, whose names may contain dots."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for path, tensor in tensors.items():
            *folders, name = path.split(".")
            owner: nn.Module = self
            for folder in folders:
                if not hasattr(owner, folder):
                    owner.add_module(folder, nn.Module())
                owner = owner.get_submodule(folder)
            owner.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=tensor.is_floating_point()))

    def tensors(self) -> Tensors:
        return {name: value.detach() for name, value in self.state_dict().items()}


def infos(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def load(folder: Path, source: Tensors, model: Tensors, mapping: WeightMapping | None = None) -> Tensors:
    """Load a file into a model of zeros with the given shapes, and return its weights."""
    save_file({name: tensor.contiguous() for name, tensor in source.items()}, folder / "model.safetensors")
    module = Weights({name: torch.zeros_like(tensor) for name, tensor in model.items()})
    load_weights(find_source(folder), [module], ALONE, mapping)
    return module.tensors()


def export(folder: Path, model: Tensors, mapping: WeightMapping) -> Tensors:
    WeightExporter([Weights(model)], ALONE, mapping).export(folder)
    return load_file(folder / "model.safetensors")


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


FUSED, UP, DOWN, EMBEDDING = numbers(4, 6), numbers(3, 5, 4), numbers(3, 4, 5), numbers(7, 4)
CASES: dict[str, tuple[WeightRule, Tensors, Tensors]] = {
    "rename": (WeightRule("old.*.w", "new.*.weight"), {"old.3.w": FUSED}, {"new.3.weight": FUSED}),
    "rename any depth": (WeightRule("**", "model.**"), {"a.b.c": FUSED}, {"model.a.b.c": FUSED}),
    "transpose": (WeightRule("w", "w", transpose=True), {"w": FUSED}, {"w": FUSED.T}),
    "split": (
        WeightRule("h.*.qkv", ["h.*.q", "h.*.k", "h.*.v"], dim=1),
        {"h.0.qkv": FUSED},
        {"h.0.q": FUSED[:, :2], "h.0.k": FUSED[:, 2:4], "h.0.v": FUSED[:, 4:]},
    ),
    "split unevenly after a transpose": (
        WeightRule("qkv", ["q", "kv"], sizes=[4, 2], transpose=True),
        {"qkv": FUSED},
        {"q": FUSED.T[:4], "kv": FUSED.T[4:]},
    ),
    "join": (
        WeightRule(["a", "b"], "ab", dim=-1, sizes=[4, 2]),
        {"a": FUSED[:, :4], "b": FUSED[:, 4:]},
        {"ab": FUSED},
    ),
    "stack": (
        WeightRule("experts.#.up", "experts.up", transpose=True),
        {f"experts.{index}.up": UP[index].T for index in range(3)},
        {"experts.up": UP},
    ),
    "unstack": (
        WeightRule("experts.down", "experts.#.down"),
        {"experts.down": DOWN},
        {f"experts.{index}.down": DOWN[index] for index in range(3)},
    ),
    "join and stack": (
        WeightRule(["e.#.gate", "e.#.up"], "e.gate_up", dim=1, transpose=True),
        {f"e.{index}.{name}": UP[index].T + part for index in range(3) for part, name in enumerate(("gate", "up"))},
        {"e.gate_up": torch.cat([UP, UP + 1], dim=2)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_holds_in_both_directions(case: str, tmp_path: Path) -> None:
    """What it loads from a file, an export writes into such a file again."""
    rule, source, model = CASES[case]
    mapping = WeightMapping(rules=[rule])
    loaded = load(tmp_path, source, model, mapping)

    assert same_tensors(loaded, model)
    assert same_tensors(export(tmp_path / "exported", loaded, mapping), source)


def assemble(recipe: Recipe, stored: Tensors, start: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    """Make one block of a tensor from what is stored, as a rank with that shard does."""
    block = torch.full(sizes, torch.nan)
    for name, steps in recipe.parts:
        region = follow(steps, Region(block, start))
        if region is not None:
            ends = zip(region.offsets, region.tensor.shape, strict=True)
            region.tensor.copy_(stored[name][tuple(slice(offset, offset + size) for offset, size in ends)])
    return block


@given(data=st.data(), case=st.sampled_from(sorted(CASES)))
def test_any_shard_is_made_of_just_its_parts(data: st.DataObject, case: str) -> None:
    """Each element of a block is read, and equals that of the whole tensor, in both directions."""
    rule, source, model = CASES[case]
    mapping = WeightMapping(rules=[rule])
    plan = mapping.plan_load([infos(source)], infos(model), aliases={}, described="the file")
    to_model = {name: recipe for name, (_, recipe) in plan.recipes.items()}
    for recipes, inputs, outputs in ((to_model, source, model), (mapping.plan_export(infos(model)), model, source)):
        name = data.draw(st.sampled_from(sorted(recipes)))
        shape = outputs[name].shape
        start = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
        sizes = tuple(data.draw(st.integers(1, size - begin)) for size, begin in zip(shape, start, strict=True))
        block = assemble(recipes[name], inputs, start, sizes)

        expected = outputs[name][tuple(slice(begin, begin + size) for begin, size in zip(start, sizes, strict=True))]
        assert torch.equal(block, expected)


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    """Names that no rule fits stay the same."""
    mapping = WeightMapping(rules=[WeightRule("a.w", "special"), WeightRule("a.*", "b.*")])
    source = {"a.w": numbers(2), "a.bias": numbers(3), "c": numbers(4)}
    model = {"special": source["a.w"], "b.bias": source["a.bias"], "c": source["c"]}

    assert same_tensors(load(tmp_path, source, model, mapping), model)
    assert same_tensors(export(tmp_path / "exported", model, mapping), source)


def test_functions_rename_what_patterns_cannot(tmp_path: Path) -> None:
    """An export needs the opposite function."""
    one_way = RenameFunction(lambda name: name.upper() if name.startswith("w") else None)
    both_ways = RenameFunction(one_way.to_model, lambda name: name.lower() if name.startswith("W") else None)
    source, model = {"w": numbers(2), "x": numbers(3)}, {"W": numbers(2), "x": numbers(3)}
    loaded = load(tmp_path, source, model, WeightMapping(rules=[one_way]))

    assert same_tensors(loaded, {"W": source["w"], "x": source["x"]})
    with pytest.raises(CheckpointError, match="its RenameFunction has no to_source"):
        export(tmp_path / "one way", loaded, WeightMapping(rules=[one_way]))
    assert same_tensors(export(tmp_path / "both ways", loaded, WeightMapping(rules=[both_ways])), source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floating_point_weights_are_converted_to_the_dtype_of_the_model(dtype: torch.dtype, tmp_path: Path) -> None:
    """And on request to another one in exports."""
    source = {"w": numbers(3, 2).to(dtype)}
    model = {"w": numbers(3, 2)}
    loaded = load(tmp_path, source, model)

    assert torch.equal(loaded["w"], source["w"].float())
    assert same_tensors(export(tmp_path / "exported", loaded, WeightMapping(export_dtype=dtype)), source)


def test_integers_are_not_converted(tmp_path: Path) -> None:
    """They would lose their meaning or their values."""
    with pytest.raises(CheckpointError, match=r"dtype: 'w' is float32\[2\] in the model and int64\[2\] in the weights"):
        load(tmp_path, {"w": torch.ones(2, dtype=torch.int64)}, {"w": numbers(2)})


def test_all_that_does_not_fit_is_listed_by_name(tmp_path: Path) -> None:
    """Each missing or unexpected weight with the nearest name on the other side, and what to do."""
    source = {"layers.0.attn.weight": numbers(2, 2), "head.weight": numbers(3, 2), "norm": numbers(2)}
    model = {"layers.0.attention.weight": numbers(2, 2), "head.weight": numbers(4, 2), "norm": numbers(2)}

    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, source, model)

    assert str(caught.value).splitlines()[:4] == [
        f"the weights in {tmp_path} do not fit this model:",
        "  missing: 'layers.0.attention.weight' (float32[2, 2]); the nearest in the weights is 'layers.0.attn.weight'",
        "  unexpected: 'layers.0.attn.weight' (float32[2, 2]); the nearest in the model is 'layers.0.attention.weight'",
        "  shape: 'head.weight' is float32[4, 2] in the model and float32[3, 2] in the weights",
    ]
    assert "pass a weight_mapping: WeightMapping(rules=[WeightRule(" in str(caught.value)


def test_named_weights_may_be_missing_or_unexpected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new head keeps its initial values, and an old one is ignored; the log names both."""
    mapping = WeightMapping(missing=["classifier.**"], unexpected=["lm_head.*"])
    source = {"body": numbers(2), "lm_head.weight": numbers(5)}
    caplog.set_level("INFO")
    loaded = load(tmp_path, source, {"body": numbers(2), "classifier.out.weight": numbers(3)}, mapping)

    assert same_tensors(loaded, {"body": source["body"], "classifier.out.weight": torch.zeros(3)})
    assert "weights that keep their initial values: classifier.out.weight" in caplog.text
    assert "that were ignored: lm_head.weight" in caplog.text


def test_a_head_for_other_classes_replaces_one_of_the_same_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its name is in `missing` and in `unexpected`; its own export is loaded again.

    Asked for in huggingface/transformers#11545, #14218 and #15876.
    """
    mapping = WeightMapping(missing=["head.*"], unexpected=["head.*"])
    source = {"body": numbers(2), "head.weight": numbers(7, 2)}
    caplog.set_level("INFO")
    loaded = load(tmp_path, source, {"body": numbers(2), "head.weight": numbers(3, 2)}, mapping)

    assert same_tensors(loaded, {"body": source["body"], "head.weight": torch.zeros(3, 2)})
    assert "weights that keep their initial values: head.weight" in caplog.text
    assert "that were ignored: head.weight" in caplog.text

    tuned = {"body": numbers(2), "head.weight": numbers(3, 2)}
    assert same_tensors(load(tmp_path, tuned, tuned, mapping), tuned)


@pytest.mark.parametrize("mapping", [WeightMapping(missing=["head"]), WeightMapping(unexpected=["head"])])
def test_a_weight_of_another_shape_is_refused_unless_it_is_named_on_both_sides(
    mapping: WeightMapping, tmp_path: Path
) -> None:
    """The error says how to replace it."""
    with pytest.raises(CheckpointError, match=r"shape: 'head' is .*\n.*both for a weight that replaces one of another"):
        load(tmp_path, {"head": numbers(7)}, {"head": numbers(3)}, mapping)


class Tied(nn.Module):
    """Uses one matrix as embedding and as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("names", [["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]])
def test_tied_weights_are_one(names: list[str], tmp_path: Path) -> None:
    """Files may have one under either name or under both; an export has it once, under its first name."""
    save_file({name: EMBEDDING.clone() for name in names}, tmp_path / "model.safetensors")
    model = Tied()
    load_weights(find_source(tmp_path), [model])
    WeightExporter([model], ALONE).export(tmp_path / "exported")

    assert torch.equal(model.head.weight, EMBEDDING)
    assert model.head.weight is model.embed.weight
    assert same_tensors(load_file(tmp_path / "exported" / "model.safetensors"), {"embed.weight": EMBEDDING})


def test_two_weights_for_one_that_the_model_ties_are_refused(tmp_path: Path) -> None:
    """Otherwise one of them would be dropped silently."""
    save_file({"embed.weight": EMBEDDING, "head.weight": EMBEDDING + 1}, tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"different values for 'head\.weight' and for 'embed\.weight'"):
        load_weights(find_source(tmp_path), [Tied()])


def test_a_model_may_untie_what_the_files_tie(tmp_path: Path) -> None:
    """The copy is a weight of its own."""
    mapping = WeightMapping(tied={"head.weight": "embed.weight"})
    loaded = load(tmp_path, {"embed.weight": EMBEDDING}, {"embed.weight": EMBEDDING, "head.weight": EMBEDDING}, mapping)

    assert same_tensors(loaded, {"embed.weight": EMBEDDING, "head.weight": EMBEDDING})


def test_several_sources_are_loaded_together(tmp_path: Path) -> None:
    """If two have a weight, the last one counts."""
    base, adapter = {"a": numbers(2), "b": numbers(3)}, {"b": numbers(3), "c": numbers(4)}
    for name, tensors in (("base", base), ("adapter", adapter)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "weights.safetensors")
    model = Weights({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(4)})
    SourceWeights((find_source(tmp_path / "base"), find_source(tmp_path / "adapter"))).load([model])

    assert same_tensors(model.tensors(), {"a": base["a"], **adapter})


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"source": "a.*", "model": "b"}, "all names must have the same stars in the same order"),
        ({"source": "a.#", "model": "b.#"}, "'#' may be in the names of one side, once in each"),
        ({"source": ["a", "b"], "model": ["c", "d"]}, "one of the two sides must be a single name"),
        ({"source": ["a", "b"], "model": "c", "sizes": [1]}, "sizes has 1 numbers for 2 names"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(rule: dict[str, Any], problem: str) -> None:
    """When it is made, with the rule."""
    with pytest.raises(ConfigurationError) as caught:
        WeightRule(**rule)

    assert str(caught.value).endswith(f" is no rule: {problem}")


@pytest.mark.parametrize(
    ("rule", "source", "problem"),
    [
        (WeightRule(["a", "b"], "ab"), {"a": numbers(2)}, "it needs 'b' too"),
        (WeightRule("e.#", "e"), {"e.0": numbers(2), "e.2": numbers(2)}, "it needs 'e.1' too"),
        (WeightRule("e.#", "e"), {"e.0": numbers(2), "e.1": numbers(3)}, "to stack have the shapes (2,) and (3,)"),
        (WeightRule("ab", ["a", "b"]), {"ab": numbers(3)}, "3 along dimension 0 cannot be split into 2 equal parts"),
        (WeightRule("ab", ["a", "b"], sizes=[1, 1]), {"ab": numbers(3)}, "3 along dimension 0 cannot be split into"),
        (WeightRule(["a", "b"], "ab"), {"a": numbers(2, 3), "b": numbers(2, 4)}, "cannot be joined along dimension 0"),
        (WeightRule("a", ["b", "c"], dim=2), {"a": numbers(2, 3)}, "a weight of the shape [2, 3] has no dimension 2"),
        (WeightRule("a", "b", transpose=True), {"a": numbers(2)}, "a weight of the shape [2] cannot be transposed"),
        (WeightRule("a", "c"), {"a": numbers(2), "c": numbers(2)}, "'c' and 'a' both become 'c'"),
    ],
)
def test_a_rule_that_does_not_fit_the_weights_is_named(
    rule: WeightRule, source: Tensors, problem: str, tmp_path: Path
) -> None:
    """With what it lacks."""
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, source, {"c": numbers(2)}, WeightMapping(rules=[rule]))

    assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("is_named", [True, False], ids=["file", "folder"])
def test_a_pickle_is_refused_with_its_conversion(name: str, is_named: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a case
    """It is not opened, since reading it could run code."""
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(
        CheckpointError, match=rf"{name}, which is a pickle.*save_file\(torch.load\('{name}', weights_on"
    ):
        find_source(tmp_path / name if is_named else tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.2-1B"])
def test_a_name_of_the_hub_is_refused_with_the_download(name: str) -> None:
    """Nothing is downloaded by itself."""
    with pytest.raises(
        CheckpointError, match=rf"does not exist: set it to .*\. If it is .*snapshot_download\('{name}'\) returns its f"
    ):
        find_source(Path(name))


def test_checkpoints_have_the_names_of_the_model(every_step: CheckpointingConfig) -> None:
    """Rules for files leave them as they are; names that the model does not have follow the rules."""
    trainer = configure_training(training_config(every_step))
    trainer.train()
    mapping = WeightMapping(rules=[WeightRule("**", "prefix.**"), WeightRule("0.*", "first.*")])
    model = ToyModelProvider().initialize_model_stage(InitializeModelStageContext(dist_context=cpu_context())).model
    prefixed = nn.ModuleDict({"prefix": model})
    weights = weights_of(trainer.modules[0])
    load_weights(find_source(every_step.folder), [trainer.modules[0]], ALONE, mapping)
    load_weights(find_source(every_step.folder), [prefixed], ALONE, mapping)

    assert same_tensors(weights_of(trainer.modules[0]), weights)
    assert same_tensors(weights_of(model), weights)


@pytest.mark.parametrize("config", [{"hidden_size": 4}, [None]])
def test_a_configuration_that_cannot_be_written_is_refused(config: Any, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(CheckpointError, match=r"config of the export is a (dict|NoneType): pass a con"):
        WeightExporter([Tied()], ALONE).export(tmp_path / "exported", config=config)
    assert not list(tmp_path.iterdir())


class Saves:
    """A configuration with files of its own."""

    def save_pretrained(self, save_directory: str, /) -> None:
        (Path(save_directory) / "config.json").write_text("{}")


def test_an_export_has_the_files_of_a_configuration(tmp_path: Path) -> None:
    """And those that are copied."""
    (tmp_path / "tokenizer.json").write_text("{}")
    WeightExporter([Tied()], ALONE).export(tmp_path / "a", config=[Saves(), tmp_path / "tokenizer.json"])
    WeightExporter([Tied()], ALONE).export(tmp_path / "b", config=Saves())

    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]
