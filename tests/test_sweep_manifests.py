"""The manifests in deploy/cluster: what Kubernetes, KubeRay and `ray up` would refuse is refused here.

KubeRay's schema is its CRD of ray.io/v1 (kuberay/helm-chart/kuberay-operator/crds) cut down to the fields that we use: names and
types are its own, and a field that is not among them fails. Ray's own schema and preparation judge the file for `ray up`.
"""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from configs.sweeps import SWEEPS
from deploy.sweep import parser

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy/cluster"
IMAGE = "surefoot:latest"
TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}


def fields(needed=(), **properties):
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False}


def several(item):
    return {"type": "array", "items": item, "minItems": 1}


AMOUNTS = fields(cpu=QUANTITY, memory=QUANTITY)
CONTAINER = fields(
    ("name", "image", "resources"),
    name=TEXT,
    image=TEXT,
    resources=fields(requests=AMOUNTS, limits=AMOUNTS),
    envFrom=several(fields(secretRef=fields(("name",), name=TEXT))),
    volumeMounts=several(fields(("name", "mountPath"), name=TEXT, mountPath=TEXT)),
)
VOLUME = fields(("name",), name=TEXT, persistentVolumeClaim=fields(("claimName",), claimName=TEXT))
POD = fields(("spec",), spec=fields(("containers",), containers=several(CONTAINER), volumes=several(VOLUME)))
PARAMS = {"type": "object", "additionalProperties": TEXT}
WORKERS = fields(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    rayStartParams=PARAMS,
    template=POD,
)
CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        idleTimeoutSeconds=NUMBER, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
    ),
    headGroupSpec=fields(("rayStartParams", "template"), rayStartParams=PARAMS, template=POD),
    workerGroupSpecs=several(WORKERS),
)
JOB = fields(
    ("entrypoint",),
    entrypoint=TEXT,
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=NUMBER,
    rayClusterSpec=CLUSTER,
)


def manifest(kind, spec):
    of = {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": kind},
        "metadata": fields(("name",), name=TEXT),
        "spec": spec,
    }
    return fields(tuple(of), **of)


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


def cluster_in(name):
    spec = read(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def ray_in_the_lock():
    return re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE).group(1)


@pytest.mark.parametrize(
    ("name", "kind", "spec"), [("raycluster.yaml", "RayCluster", CLUSTER), ("rayjob.yaml", "RayJob", JOB)]
)
def test_kuberay_knows_every_field(name, kind, spec):
    jsonschema.validate(read(name), manifest(kind, spec))


def test_the_schema_refuses_a_misspelt_field_and_a_wrong_type():
    job = read("rayjob.yaml")
    job["spec"]["entryPoint"] = job["spec"].pop("entrypoint")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, manifest("RayJob", JOB))
    cluster = read("raycluster.yaml")
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, manifest("RayCluster", CLUSTER))


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_pods_have_one_image_our_ray_and_the_volumes_that_they_mount(name):
    cluster = cluster_in(name)
    assert cluster["rayVersion"] == ray_in_the_lock()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        there = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert container["image"] == IMAGE
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == there
            assert container["resources"]["requests"] == container["resources"]["limits"]  # Ray counts limits
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def sweeps_in(text):
    """The words of every `surefoot sweep ...` in a text."""
    return [shlex.split(found) for found in re.findall(r"surefoot sweep ([^;'\n]+)", text)]


def test_the_sweeps_that_the_manifests_start_are_sweeps_of_ours():
    told = [words for path in sorted(FOLDER.iterdir()) for words in sweeps_in(path.read_text())]
    assert len(told) == 4
    for first, *rest in told:
        if first == "resume":
            assert rest == ["/sweeps/linear", "--address", "auto"]
        else:
            assert first in SWEEPS
            own, more = parser().parse_known_args(rest)
            assert own.address == "auto"
            assert own.storage
            assert more == []


def test_a_job_that_is_tried_again_goes_on_and_keeps_its_journal_where_the_head_mounts_a_volume():
    entrypoint = read("rayjob.yaml")["spec"]["entrypoint"]
    (mount,) = cluster_in("rayjob.yaml")["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    first, second = sweeps_in(entrypoint)
    assert first[1] == second[second.index("--out") + 1]
    assert first[1].startswith(mount["mountPath"])
    assert shlex.split(entrypoint)[:2] == ["sh", "-c"]
    assert "\n" not in entrypoint


def test_ray_up_accepts_its_file_as_ray_itself_prepares_it(tmp_path, monkeypatch):
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))
    config = read("ray-up.yaml")
    schema = json.loads((Path(jsonschema.__file__).parents[1] / "ray/autoscaler/ray-schema.json").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    jsonschema.validate(prepared, schema)
    assert sum(kind.get("max_workers", 0) for kind in prepared["available_node_types"].values()) == 2
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "file_mount": {}})
    assert config["setup_commands"][0].endswith(f'"ray[default]=={ray_in_the_lock()}"')


def test_the_image_is_made_of_what_is_locked():
    text = (FOLDER / "Dockerfile").read_text()
    assert f'"ray[default]=={ray_in_the_lock()}"' in text
    assert f"-t {IMAGE}" in text
    assert "make setup" in text
