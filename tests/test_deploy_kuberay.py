"""deploy/kuberay-rayjob.yaml: KubeRay's schema takes it strictly; a cluster as docs/guides/cluster.md describes it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from labeler.config import make_config
from tests.crd import closed, load_all, main, problems, read_crd, schemas_of

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy" / "kuberay-rayjob.yaml"
CRD = Path(os.environ.get("LABELER_KUBERAY_CRD", ROOT.parent / "shared/data/kuberay/kuberay-v1.7-rayjobs-crd.yaml.gz"))
SMALL = """
kind: CustomResourceDefinition
spec:
  group: ray.io
  names: {kind: RayJob}
  versions:
    - name: v1
      served: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [entrypoint]
              properties:
                entrypoint: {type: string}
                replicas: {type: integer, nullable: true}
                memory: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                rayStartParams: {type: object, additionalProperties: {type: string}}
                groups: {type: array, items: {type: object, properties: {name: {type: string}}}}
"""
GOOD = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: a, labels: {any: thing}}
spec: {entrypoint: a, replicas: null, memory: 8Gi, rayStartParams: {any: "0"}, groups: [{name: a}]}
"""


def small() -> dict[tuple[str, str], Any]:
    return schemas_of(load_all(SMALL))


@pytest.fixture(scope="module")
def kuberay() -> dict[tuple[str, str], Any]:
    if not CRD.is_file():
        pytest.skip(f"no {CRD}; LABELER_KUBERAY_CRD names another")
    return read_crd(CRD)


def test_what_a_schema_takes_is_no_problem() -> None:
    assert list(problems(GOOD, small())) == []


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("metadata: {name: a", "metadata: {nam: a", "'nam'"),
        ("name: a, labels", "name: A_b, labels", "A_b"),
        ("entrypoint: a", "entrypoints: a", "'entrypoints'"),
        ("replicas: null", "replicas: many", "'many' is not of type"),
        ("memory: 8Gi", "memory: [8]", "[8]"),
        ('{any: "0"}', "{any: 0}", "0 is not of type 'string'"),
        ("groups: [{name: a}]", "groups: [{named: a}]", "'named'"),
        ("replicas: null", "replicas: 1, replicas: 2", "key replicas is given twice"),
        ("kind: RayJob", "kind: RayJobs", "no schema for ray.io/v1 RayJobs"),
        ("ray.io/v1", "ray.io/v2", "no schema for ray.io/v2 RayJob"),
    ],
)
def test_a_typo_anywhere_is_a_problem(right: str, wrong: str, expected: str) -> None:
    assert right in GOOD
    assert expected in " ".join(problems(GOOD.replace(right, wrong), small()))


def test_a_schema_that_is_open_by_its_own_word_stays_open() -> None:
    free = {"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True}
    assert "additionalProperties" not in closed(free)


def test_the_file_is_what_kuberay_takes(
    kuberay: dict[tuple[str, str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--crd", str(CRD), str(FILE)]) == 0
    assert capsys.readouterr().out.endswith("as the schema has it\n")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("  backoffLimit: 3", "  backofLimit: 3"),
        ("  entrypoint: python", "  entryPoint: python"),
        ("submissionMode: K8sJobMode", "submissionMode: [K8sJobMode]"),
        ('        num-cpus: "0"', "        num-cpus: 0"),
        ("maxReplicas: 16", "maxReplicas: sixteen"),
        ("envFrom: &credentials", "envfrom: &credentials"),
        ("- secretRef: {name: labeler-storage", "- secretRef: {nam: labeler-storage"),
        ("persistentVolumeClaim: {claimName", "persistentVolumeClaim: {claim"),
        ("mountPath: /weights", "path: /weights"),
        ("tolerations:\n", "toleration:\n"),
        ("kind: RayJob", "kind: Rayjob"),
        ("  shutdownAfterJobFinishes: true", "  shutdownAfterJobFinishes: true\n  shutdownAfterJobFinishes: true"),
    ],
)
def test_a_broken_file_is_not(
    kuberay: dict[tuple[str, str], Any],
    tmp_path: Path,
    right: str,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = FILE.read_text()
    assert right in text
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace(right, wrong, 1))
    monkeypatch.setattr("tests.crd.read_crd", lambda path: kuberay)
    assert main(["--crd", str(CRD), str(broken)]) == 1
    assert str(broken) in capsys.readouterr().out


def test_the_check_says_where_a_schema_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--crd", "", str(FILE)])
    assert stop.value.code == 2
    assert "kubectl get crd rayjobs.ray.io -o yaml" in capsys.readouterr().err


def parts() -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, job = load_all(FILE.read_text())
    return config_map, job["spec"]


def test_its_config_is_one_of_labeler() -> None:
    config_map, spec = parts()
    config = make_config(yaml.safe_load(config_map["data"]["mine.yaml"]))
    assert config.model.name is not None
    assert config.model.name.startswith("/weights/")
    assert spec["entrypoint"].split()[-1] == "/config/mine.yaml"


def test_its_head_does_no_work_its_gpus_are_spot_and_all_pods_have_credentials_config_and_weights() -> None:
    _, spec = parts()
    cluster = spec["rayClusterSpec"]
    head, (gpu, cpu) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"]
    assert (gpu["minReplicas"], gpu["replicas"]) == (0, 0)
    assert spec["backoffLimit"] > 0
    for group in (head, gpu, cpu):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group is gpu)
        assert container["envFrom"]
        assert {"/config", "/weights"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {m["name"] for m in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_its_ray_is_that_of_the_lock() -> None:
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert parts()[1]["rayClusterSpec"]["rayVersion"] == locked
