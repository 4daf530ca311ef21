"""Recipes: YAML files that extend each other, overrides `key=value`, and clear errors for what is wrong in them."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError, WrapValidator
from yaml import YAMLError

from llm.config import Config, setting
from llm.data.clean.clean import CleanConfig
from llm.data.decontaminate.decontaminate import DecontaminateConfig
from llm.data.dedup.dedup import DedupConfig
from llm.data.instruct.config import InstructConfig
from llm.data.pack.pack import ShardConfig
from llm.data.sources.ingest import IngestConfig
from llm.data.web.config import CrawlConfig
from llm.evaluate.config import EvaluateConfig
from llm.evaluate.gate import GateConfig
from llm.model.published import published_shape
from llm.model.shape import GPTConfig
from llm.redact import redacted
from llm.report.report import ReportConfig
from llm.scaling.config import ScalingConfig
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.training import TokenizerConfig
from llm.train.config import PretrainConfig
from llm.train.methods.config import (
    ClassifyConfig,
    FinetuneConfig,
    PreferConfig,
    ReferenceConfig,
    ReinforceConfig,
)
from llm.train.resolve import resolve
from tasks.core.engine import EngineConfig
from tasks.core.session import OnCodeChange


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """Everything that decides what a run makes, one section per stage, and where it runs."""

    name: str = setting(name="-")
    """Name of the recipe: letters, digits, dashes, up to 64. It appears in run names and reports."""
    crawl: CrawlConfig | None = None
    """Which web pages to fetch; empty with ingest."""
    ingest: IngestConfig | None = None
    """Which files, data sets or archives to read instead of a crawl."""
    clean: CleanConfig = CleanConfig()
    """How pages become documents, and which are dropped."""
    dedup: DedupConfig = DedupConfig()
    """When two documents count as one, and which paragraphs are only repeated."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Which benchmarks the corpus must not contain."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The vocabulary."""
    shard: ShardConfig = ShardConfig()
    """How tokens are packed into sequences."""
    instruct: InstructConfig | None = InstructConfig()
    """How instruction examples are made from the corpus; empty, together with finetune, makes no chat model."""
    pretrain: PretrainConfig = PretrainConfig()
    """The base model and its training."""
    scaling: ScalingConfig | None = None
    """The sweep of small models of `python -m flows scaling`; `run` does without it."""
    finetune: FinetuneConfig | None = FinetuneConfig()
    """How the chat model is trained on them; empty, together with instruct, makes none."""
    reference: ReferenceConfig | None = None
    """Which preference pairs there are, and how likely the chat model finds their answers; empty with prefer."""
    prefer: PreferConfig | None = None
    """How the chat model is trained on the pairs (DPO); empty: it is not."""
    reinforce: ReinforceConfig | None = None
    """Which questions with known answers the chat model is trained on by its own answers (GRPO); empty: it is not."""
    classify: ClassifyConfig | None = None
    """Which labelled texts a classifier is made for, out of the chat model or, without one, of the base model."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Which scores, and over how many documents, examples and questions."""
    gate: GateConfig = GateConfig()
    """When a newly trained model takes the champion's place in the registry."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    engine: EngineConfig = EngineConfig()
    """Where partitions run; never changes a result."""
    on_code_change: dict[str, OnCodeChange] = dataclasses.field(default_factory=dict)
    """Per stage, what to do when only its code has changed: `rebuild`, `reuse` or `refuse`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.crawl is None) == (self.ingest is None):
            found = "neither" if self.crawl is None else "both"
            raise ValueError(f"a recipe has either a crawl or an ingest section; this one has {found}")
        if (self.instruct is None) != (self.finetune is None):
            raise ValueError("instruct and finetune make the chat model together: give both, or leave both empty")
        if (self.reference is None) != (self.prefer is None):
            raise ValueError("reference and prefer train on preference pairs together: give both, or leave both empty")
        for name in ("prefer", "reinforce"):
            if getattr(self, name) and not self.finetune:
                raise ValueError(f"{name} trains the chat model further: give instruct and finetune too, which make it")
        self._follow_start()
        pretrain = resolve(
            self.pretrain, self.tokenizer.vocab_size, self.shard.context_length, published=self.published
        ).config
        if pretrain.batch_tokens % self.shard.context_length:
            raise ValueError(
                f"pretrain.batch_tokens is {pretrain.batch_tokens}; it must be a multiple of "
                f"shard.context_length, which is {self.shard.context_length}"
            )
        if pretrain.mixture and not self.shard.keep_sources_apart:
            raise ValueError("pretrain.mixture draws sources by weight, so set shard.keep_sources_apart: true as well")

    def _follow_start(self) -> None:
        """Fills in the tokenizer of published weights, and checks all that can be said of them before anything runs."""
        directory = self.pretrain.start_from
        if directory and self.tokenizer.start_from not in (None, directory):
            raise ValueError(
                f"tokenizer.start_from is {self.tokenizer.start_from!r} and pretrain.start_from {directory!r}: a model "
                "needs its own tokenizer, so omit tokenizer.start_from"
            )
        if directory and self.scaling:
            raise ValueError("scaling trains models from scratch, so pretrain.start_from does not go with it: omit one")
        source, published = directory or self.tokenizer.start_from, self.published
        if source is None:
            return
        n_tokens, given = import_tokenizer(Path(source)).tokenizer.vocab_size, self.tokenizer.vocab_size
        if given not in (TokenizerConfig().vocab_size, n_tokens):
            raise ValueError(
                f"tokenizer.vocab_size is {given}, but the tokenizer of start_from, {source}, has {n_tokens} tokens "
                f"with ours for chats: omit vocab_size, or set it to {n_tokens}"
            )
        followed = dataclasses.replace(self.tokenizer, start_from=source, vocab_size=n_tokens)
        object.__setattr__(self, "tokenizer", followed)
        if published and self.shard.context_length > published.context_length:
            raise ValueError(
                f"shard.context_length is {self.shard.context_length}, but the model of pretrain.start_from, {source}, "
                f"reads {published.context_length} tokens: set that or less"
            )

    @property
    def published(self) -> GPTConfig | None:
        """The shape of the published model that pretraining begins with; None: from scratch."""
        return published_shape(Path(self.pretrain.start_from)) if self.pretrain.start_from else None


def load_recipe(path: str | Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Recipe:
    """Returns the recipe of a YAML file with `key=value` overrides applied, then fields as a form or an API gives them.

    Raises ValueError that names file, field, value and what is allowed.
    """
    values = merged(Path(path), ())
    _refuse_environment([OmegaConf.to_yaml(values), *overrides])
    try:
        for override in overrides:
            key, separator, text = override.partition("=")
            if not (separator and key):
                shown = redacted(repr(override))
                raise ValueError(f"override {shown} is not of the form key=value, such as pretrain.n_steps=500")
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
            OmegaConf.update(values, key, None if value == [] else value, force_add=True)  # both are empty
        plain = OmegaConf.to_container(values, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(redacted(f"{path} with {list(overrides)}: {error}")) from None
    return validated(laid_over(plain, given or {}, Recipe), str(path))


def laid_over(values: Any, given: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """Returns the values of a config with the given ones in their place; sections are merged, all else is replaced."""
    made, hints = dict(values or {}), typing.get_type_hints(config_class)
    for name, value in given.items():
        options = [hints.get(name), *typing.get_args(hints.get(name))]
        nested = next((option for option in options if dataclasses.is_dataclass(option)), None)
        is_section = nested and isinstance(value, Mapping)
        made[name] = laid_over(made.get(name), value, nested) if is_section else value
    return made


def plain(config: Config | Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a config, or some of its fields, as plain values."""
    return config if isinstance(config, Mapping) else dataclasses.asdict(config)  # type: ignore[call-overload]


def asked_recipe(recipe: Recipe | Mapping[str, Any], base: str | None) -> Recipe:
    """Returns what a flow is asked to make: a recipe, or fields laid over the recipe of the file `base`."""
    if isinstance(recipe, Recipe):
        return recipe
    return load_recipe(base, given=recipe) if base else validated(recipe, "recipe")


def recipe_name(base: str | None, recipe: Recipe | Mapping[str, Any]) -> str:
    """Returns the name of what a flow is asked to make, for its run; also when it cannot be read."""
    given = recipe.name if isinstance(recipe, Recipe) else recipe.get("name")
    return str(given or (Path(base).stem if base else "recipe without a name"))


def partial(config_class: Any) -> Any:
    """Returns the type of a flow's parameter that takes any fields of a config, in a form like that of the whole.

    The flow gets them as the plain values they are, for `load_recipe` to check: Prefect would fill in the class's
    defaults where the recipe has other values.
    """
    return Annotated[config_class, WrapValidator(lambda value, _: value), NothingRequired()]


@dataclass(frozen=True)
class NothingRequired:
    """Makes every field optional in the form of a parameter."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Returns the JSON schema of the whole config without `required`, in its sections too."""
        form: dict[str, Any] = handler(core_schema)
        require_nothing(form, handler.resolve_ref_schema)
        return form


def require_nothing(node: dict[str, Any], resolve_reference: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Takes `required` from a JSON schema and from those of its fields; the items of lists stay as they are."""
    for option in node.get("anyOf", [node]):
        found = resolve_reference(option)
        found.pop("required", None)
        for field in found.get("properties", {}).values():
            require_nothing(field, resolve_reference)


def _refuse_environment(texts: Iterable[str]) -> None:
    """Raises ValueError where a text takes a value out of the environment by interpolation.

    Nobody can tell a path from a password there, and what a recipe holds is written into every artifact and report.
    """
    found = re.search(r"\$\{\s*oc\.env\s*:\s*([^}]*)\}", "\n".join(texts))
    if found:
        raise ValueError(
            f"{found[0]} is not allowed in a recipe. A credential is named, credential.env={found[1]}; anything else "
            'can be given as an override, where the shell puts it in, such as key="$HOME/data"'
        )


def merged(path: Path, seen: tuple[Path, ...]) -> DictConfig:
    """Returns the values of a YAML file merged over those of the file that it `extends`."""
    path = path.resolve() if seen else path
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself through {' -> '.join(map(str, seen))}")
    if not path.is_file():
        near = sorted(str(item) for item in Path("conf").glob("*.yaml"))
        raise ValueError(f"there is no recipe {path}; the recipes here are {', '.join(near) or 'none'}")
    try:
        values = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(redacted(f"{path} is not valid YAML: {error}")) from None
    if not isinstance(values, DictConfig):
        raise ValueError(f"{path} must hold `key: value` lines, but holds {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    return typing.cast(DictConfig, OmegaConf.merge(merged(path.parent / str(base), (*seen, path.resolve())), values))


def validated(values: Any, source: str) -> Recipe:
    """Returns plain values as a Recipe; raises ValueError with one line for each thing that is wrong."""
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        lines = [f"  {describe(item)}" for item in error.errors()]
        raise ValueError(f"{source}:\n" + redacted("\n".join(dict.fromkeys(lines)))) from None


def describe(error: Any) -> str:
    """Returns one validation error in words: the field with its dots, what is wrong, what is allowed."""
    parts = [str(part) for part in error["loc"]]
    name = ".".join(parts)
    if error["type"] == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(section(parts[:-1]))]
        near = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {'.'.join([*parts[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    if error["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return f"{name}: missing; the recipe must give it"
    if error["type"] == "dataclass_type":  # the value is not shown: given as a credential, it is one
        known = [field.name for field in dataclasses.fields(section(parts))]
        return f"{name} is one value; allowed: its fields, {', '.join(f'{name}.{field}' for field in known)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} is {error['input']!r:.200}: {message[0].lower()}{message[1:]}"


def section(parts: Sequence[str]) -> Any:
    """Returns the config class at a dotted name in the recipe."""
    found: Any = Recipe
    for name in parts:
        if name.isdigit():  # the position in a list of configs
            continue
        hint = typing.get_type_hints(found)[name]
        options = [hint, *typing.get_args(hint)]
        found = next(option for option in options if dataclasses.is_dataclass(option))
    return found


EMPTY = "Empty is null or [] in a file, and `key=` on the command line."


def describe_fields(name: str | None = None) -> list[str]:
    """Returns the lines for every key of one section, or of the whole recipe (key, default, meaning), and one more on
    what empty means."""
    schema = TypeAdapter(Recipe).json_schema()
    known = [field.name for field in dataclasses.fields(Recipe)]
    if name is not None and name not in known:
        raise ValueError(f"there is no section {name!r}; the sections are {', '.join(known)}")
    names = known if name is None else [name]
    lines = [line for item in names for line in field_lines(schema, schema["properties"][item], item)]
    return [*lines, EMPTY]


def field_lines(schema: dict[str, Any], node: dict[str, Any], key: str) -> list[str]:
    """Returns the lines of one key of a JSON schema, with those below it."""
    references = [option.get("$ref") for option in [node, node.get("items", {}), *node.get("anyOf", [])]]
    reference = next(filter(None, references), None)
    below = schema["$defs"][reference.rpartition("/")[2]] if reference else {}
    # pydantic leaves the description out where the class has the same one.
    meaning = " ".join((node.get("description") or below.get("description", "")).split())
    if not below:
        shown = repr(node.get("default")) if node.get("default") not in (None, "", []) else "empty"
        return [f"{key} = {shown}" if "default" in node else key, f"    {meaning}"]
    inner = below["properties"]
    return [
        f"{key}",
        f"    {meaning}",
        *(line for name in inner for line in field_lines(schema, inner[name], f"{key}.{name}")),
    ]
