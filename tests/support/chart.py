"""The Helm chart, rendered by Helm itself (as a library), and what Kubernetes would make of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

import helm_python
import yaml
from jsonschema import Draft202012Validator
from jsonschema import ValidationError as SchemaError
from referencing import Registry, Resource

__all__ = [
    "CHART",
    "EXAMPLES",
    "KUBERNETES_VERSIONS",
    "Manifests",
    "Object",
    "find_schema_mistakes",
    "lint_chart",
    "pod_of",
    "read_example",
    "read_values",
    "render_chart",
    "select",
    "variables_of",
]

Object = dict[str, Any]
"""One object of Kubernetes, as YAML says it."""

CHART: Final = Path(__file__).parents[2] / "deploy" / "kubernetes" / "speechbus"
EXAMPLES: Final = tuple(sorted(path.stem for path in (CHART / "examples").glob("*.yaml")))
RELEASE: Final = "speech"
NAMESPACE: Final = "prod"
KUBERNETES_VERSIONS: Final = ("1.30", "1.37")
"""The oldest that Chart.yaml takes, and the newest that schemas are there for."""


class Manifests:
    """Everything that Helm would send to Kubernetes.

    Attributes:
        objects: in the order of the templates.
        notes: what Helm would show afterwards.
    """

    def __init__(self, rendered: Mapping[str, str]) -> None:
        """Take what Helm returns, by the template's path."""
        self.notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
        self.objects: list[Object] = [
            each
            for path, text in rendered.items()
            if path.endswith(".yaml")
            for each in yaml.load_all(text, Loader=yaml.CSafeLoader)  # ten times as fast
            if each
        ]

    def of(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def get(self, kind: str, ending: str) -> Object:
        """Return the object of a kind whose name ends so; there must be one."""
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"].endswith(ending))
        return found

    @property
    def workloads(self) -> list[Object]:
        """Whatever starts pods."""
        return [*self.of("Deployment"), *self.of("Job")]


def read_values() -> Object:
    """Return the defaults of the chart."""
    values: Object = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def read_example(name: str) -> Object:
    """Return the values of an example; `default`: none."""
    if name == "default":
        return {}
    values: Object = yaml.safe_load(
        (CHART / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return values


def render_chart(values: Mapping[str, Any] | None = None, *, release: str = RELEASE) -> Manifests:
    """Render the chart as `helm template` does, without NATS' own chart.

    Raises:
        helm_python.HelmError: the values are refused; the text says why.
    """
    return Manifests(_render(json.dumps(values or {}), release))


@cache
def _render(values: str, release: str) -> Mapping[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(json.loads(values), name=release, namespace=NAMESPACE)


def lint_chart(values: Mapping[str, Any] | None = None) -> list[str]:
    """Return what `helm lint` warns of, or finds wrong."""
    report = helm_python.lint(CHART, dict(values or {}))
    return [each["error"] for each in report["messages"] if each["severity"] > 1]


def pod_of(workload: Object) -> Object:
    """Return the pod's spec of a Deployment or Job."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def variables_of(workload: Object, manifests: Manifests) -> dict[str, str]:
    """Return the environment of the container, without values that come from Secrets."""
    (container,) = pod_of(workload)["containers"]
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"]
        (config,) = (e for e in manifests.of("ConfigMap") if e["metadata"]["name"] == name)
        variables |= config["data"]
    plain = {e["name"]: e["value"] for e in container.get("env", ()) if "value" in e}
    return {**variables, **plain}


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    group, _, number = api_version.rpartition("/")
    suffix = f"{group.partition('.')[0]}-{number}" if group else number
    schema = _read_schema(f"{kind.lower()}-{suffix}", version)
    return Draft202012Validator(schema, registry=_registry(version))


def _read_schema(name: str, version: str) -> Object:
    """Return a schema that the package `kubernetes-validate` brings; the kind must be known."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    schema: Object = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return schema


@cache
def _registry(version: str) -> "Registry[Any]":
    definitions: Resource[Any] = Resource.from_contents(_read_schema("_definitions", version))
    registry: Registry[Any] = Registry()
    return definitions @ registry


def find_schema_mistakes(each: Object, version: str) -> list[str]:
    """Return what Kubernetes, KEDA or the Prometheus Operator would not know in an object."""
    if each["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/")):
        return list(_find_model_mistakes(each))
    validator = _validator(each["kind"], each["apiVersion"], version)
    errors: Iterator[SchemaError] = validator.iter_errors(each)  # pyright: ignore[reportUnknownMemberType]
    return [f"{error.json_path}: {error.message}" for error in errors]


def _find_model_mistakes(each: Object) -> Iterator[str]:
    # Imported here: pydantic builds all models of both, which takes seconds of CPU.
    from cloudcoil.models.keda import v1alpha1 as keda
    from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
    from pydantic import ValidationError

    module = keda if each["apiVersion"].startswith("keda.sh/") else prometheus_operator
    model = getattr(module, each["kind"])
    try:
        known = model.model_validate(each).model_dump(
            mode="json", by_alias=True, exclude_unset=True
        )
    except ValidationError as error:
        yield from (f"{mistake['loc']}: {mistake['msg']}" for mistake in error.errors())
        return
    # The models pass over what they do not know; it is then missing in what they say.
    yield from _find_missing(each, known, path="$")


def _find_missing(given: object, known: object, *, path: str) -> Iterator[str]:
    match given, known:
        case dict(), dict():
            there = cast("Object", known)
            for key, value in cast("Object", given).items():
                if key in there:
                    yield from _find_missing(value, there[key], path=f"{path}.{key}")
                else:
                    yield f"{path}: {key!r} is unknown"
        case list(), list():
            pairs = zip(cast("list[object]", given), cast("list[object]", known), strict=True)
            for index, pair in enumerate(pairs):
                yield from _find_missing(*pair, path=f"{path}[{index}]")
        case _:
            if json.dumps(given) != json.dumps(known):
                yield f"{path}: {given!r} became {known!r}"


def select(objects: Sequence[Object], labels: Mapping[str, str]) -> list[Object]:
    """Return the workloads whose pods have all these labels."""
    return [
        each
        for each in objects
        if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]
