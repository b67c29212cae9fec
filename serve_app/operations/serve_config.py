"""The Ray Serve config file (config/serve_config.yaml), read once into one typed value.

Owns where a setting belongs: a key that is unknown, misplaced or written twice, and a value of the wrong type, is refused
with its line, because Ray Serve ignores most of these without a word. The service's own settings are checked by
``config.Settings``, the rest by Ray Serve's own models, so no list of its options is copied here. What the settings mean is
the business of those who use them.

Reading imports no Ray, for the readiness probe reads the file too; ``check_ray_options`` does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import msgspec
import yaml
from msgspec import Meta

from serve_app.config import Settings
from serve_app.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = type[BaseModel]

__all__ = ["Application", "Deployment", "HTTPOptions", "Overrides", "ServeConfig", "read_serve_config"]

_MSGSPEC_ERROR = re.compile(r"(?P<said>.*?)(?: - at `\$(?P<at>[^`]*)`)?", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_NO_SUCH_SETTING = "there is no such setting here"
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)]")

Location = tuple[str | int, ...]
"""A place in the document: keys and indices from the top."""


class HTTPOptions(msgspec.Struct, frozen=True):
    """Where the service listens; Ray Serve knows more options than these."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None


class Deployment(msgspec.Struct, frozen=True):
    """A deployment by its name; the rest is for Ray Serve."""

    name: str


class Application(msgspec.Struct, frozen=True):
    """An application: where its code is, and the settings that the code is called with."""

    import_path: str
    args: Settings = Settings()
    deployments: tuple[Deployment, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    http_options: HTTPOptions
    applications: Annotated[tuple[Application, ...], Meta(min_length=1)]


class Overrides(NamedTuple):
    """Options of the command line that replace what the file says; None leaves it.

    ``components`` is a folder, ``host`` the address that HTTP listens on, ``keys_file`` holds the API keys.
    ``min_replicas`` and ``max_replicas`` hold for each deployment.
    """

    components: Path | None = None
    host: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    keys_file: Path | None = None
    max_replicas_per_node: int | None = None


@dataclass(frozen=True)
class ServeConfig:
    """The config file.

    Args:
        path: as the user named it; messages begin with it.
        http_options, applications: the part of the file that this package itself reads.
        document: the whole file, as Ray Serve is given it.
    """

    path: Path
    http_options: HTTPOptions
    applications: tuple[Application, ...]
    document: dict[str, Any]
    _root: yaml.Node = field(compare=False, repr=False)

    def overridden(self, overrides: Overrides) -> ServeConfig:
        """The same config with some values replaced.

        Raises:
            SettingsError: a value of the command line cannot be used.
        """
        document = copy.deepcopy(self.document)
        if overrides.host is not None:
            document["http_options"]["host"] = overrides.host
        replicas = {"min_replicas": overrides.min_replicas, "max_replicas": overrides.max_replicas}
        replicas = {bound: count for bound, count in replicas.items() if count is not None}
        for application in document["applications"]:
            if overrides.components is not None:
                _section(application, "args")["components"] = str(overrides.components.resolve())
            if overrides.keys_file is not None:
                _section(_section(application, "args"), "access")["keys_file"] = str(overrides.keys_file.resolve())
            for deployment in application.get("deployments", []):
                if overrides.max_replicas_per_node is not None:
                    deployment["max_replicas_per_node"] = overrides.max_replicas_per_node
                if replicas:
                    _section(deployment, "autoscaling_config").update(replicas)
        return self.with_document(document)

    def with_document(self, document: dict[str, Any]) -> ServeConfig:
        """The config with another document of the same file.

        Raises:
            SettingsError: it cannot be used.
        """
        checked = _convert(self.path, document, self._root)
        return replace(self, http_options=checked.http_options, applications=checked.applications, document=document)

    def check_ray_options(self) -> None:
        """Checks what Ray Serve is told, by Ray Serve's own models; to be called when Ray's environment is set.

        Raises:
            SettingsError: a key that Ray Serve does not know there, or a value that it cannot use; names the line.
        """
        from pydantic import ValidationError
        from ray.serve.schema import ServeDeploySchema

        for location, section, model in _sections(self.document, ServeDeploySchema):
            for key in section.keys() - _fields(model).keys():
                raise _refusal(self.path, self._root, (*location, key), _NO_SUCH_SETTING)
            try:
                model.model_validate(copy.deepcopy(section))
            except ValidationError as error:
                first = error.errors()[0]
                inner = _known_part(section, first["loc"])
                said = first["msg"].removeprefix("Value error, ")
                raise _refusal(self.path, self._root, (*location, *inner), said) from error


def read_serve_config(path: Path) -> ServeConfig:
    """Reads and checks the file; what only Ray Serve can check is left to ``check_ray_options``.

    Raises:
        SettingsError: it cannot be read, is not YAML, or holds a wrong key or value; names the line.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        for key in _repeated_keys(root):
            raise SettingsError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is set twice")
        document = None if root is None else loader.construct_document(root)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise SettingsError(f"{path}{line}: this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from error
    if root is None or not isinstance(document, dict):
        raise SettingsError(f"{path}: a Ray Serve config is a mapping, with http_options and applications at the top")
    checked = _convert(path, document, root)
    return ServeConfig(path, checked.http_options, checked.applications, document, root)


def _convert(path: Path, document: dict[str, Any], root: yaml.Node) -> _Document:
    try:
        return msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        found = _MSGSPEC_ERROR.fullmatch(str(error))
        said, at = (found["said"], found["at"] or "") if found else (str(error), "")
        location: Location = tuple(name or int(index) for name, index in _STEP.findall(at))
        if unknown := _UNKNOWN_FIELD.fullmatch(said):
            location, said = (*location, unknown["name"]), _NO_SUCH_SETTING
        raise _refusal(path, root, location, said) from error


def _section(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    """The mapping below a key; made where the file has none, or null."""
    if mapping.get(name) is None:
        mapping[name] = {}
    section: dict[str, Any] = mapping[name]
    return section


def _repeated_keys(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Keys that their mapping has already; YAML's readers let the last one win."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            yield from _repeated_keys(value)


def _sections(value: Any, model: Model, at: Location = ()) -> Iterator[tuple[Location, dict[str, Any], Model]]:
    """Each mapping of the document that one of pydantic's models describes, innermost first, with its location and model.

    Innermost first, because a model that may also be any mapping, as that of ``autoscaling_config``, is not checked from
    outside.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _sections(item, model, (*at, index))
    elif isinstance(value, dict):
        for key, annotation in _fields(model).items():
            below = _model_in(annotation)
            if below is not None and key in value:
                yield from _sections(value[key], below, (*at, key))
        yield at, value, model


def _fields(model: Model) -> dict[str, Any]:
    """The type of each key that a model knows."""
    return {name: field.annotation for key, field in model.model_fields.items() for name in (key, field.alias) if name}


def _model_in(annotation: Any) -> Model | None:
    """The model in an annotation such as ``list[dict | Model] | None``."""
    if hasattr(annotation, "model_fields"):
        found: Model = annotation
        return found
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _known_part(document: Any, location: tuple[str | int, ...]) -> Location:
    """A location without the names of models that pydantic puts into it."""
    steps: list[str | int] = []
    for step in location:
        is_there = step in document if isinstance(document, dict) else isinstance(document, list) and isinstance(step, int)
        if is_there:
            steps.append(step)
            document = document[step]
    return tuple(steps)


def _refusal(path: Path, root: yaml.Node, location: Location, said: str) -> SettingsError:
    """An error with the line of the location, or of the innermost part of it that the file has."""
    node, line = root, root.start_mark.line
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == step]  # after a merge, the last one holds
        else:
            found = [(item, item) for item in node.value[step : step + 1]] if isinstance(step, int) else []
        if not found:
            break
        line, node = found[-1][0].start_mark.line, found[-1][1]
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")
    return SettingsError(f"{path}, line {line + 1}: {name + ': ' if name else ''}{said}")
