"""deploy/ray-up-aws.yaml: what Ray's own schema takes, strictly, and what EC2's takes of each machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import click
import jsonschema
import pytest
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from tests.crd import closed, load_all

FILE = Path(__file__).parent.parent / "deploy" / "ray-up-aws.yaml"
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
SETS_OF_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
# Of a machine, what `ray up` takes itself: it fills in the rest of RunInstances.
_EC2 = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def problems(text: str) -> Iterator[str]:
    """A line about everything that Ray, EC2 or a shell would not take."""
    (config,) = load_all(text)
    for error in jsonschema.Draft202012Validator(closed(SCHEMA)).iter_errors(config):
        yield f"{error.json_path}: {error.message}"
    try:
        validate_config(prepare_config(deepcopy(config)))
    except Exception as error:
        yield f"Ray: {error}"
    for name, kind in config.get("available_node_types", {}).items():
        machine = {"MinCount": 1, "MaxCount": 1, **kind.get("node_config", {})}
        yield from (f"{name}: {line}" for line in of_machine(machine))
    for commands in SETS_OF_COMMANDS:
        for command in config.get(commands, ()):
            yield from (f"{commands}: {line}" for line in of_command(command))


def of_machine(machine: dict[str, Any]) -> Iterator[str]:
    yield from unknown_keys(machine, _EC2, "")
    report = botocore.validate.ParamValidator().validate(machine, _EC2)
    if report.has_errors():
        yield report.generate_report()


def unknown_keys(value: Any, shape: Any, where: str) -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, inner in value.items():
            if key not in shape.members:
                yield f"{where}{key} is not known to EC2"
            else:
                yield from unknown_keys(inner, shape.members[key], f"{where}{key}.")
    elif shape.type_name == "list" and isinstance(value, list):
        for inner in value:
            yield from unknown_keys(inner, shape.member, where)


def of_command(command: str) -> Iterator[str]:
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stderr
    for words in re.findall(r"ray (start|stop)([^;]*)", command):
        try:
            getattr(scripts, words[0]).make_context(words[0], words[1].split())
        except click.ClickException as error:
            yield error.format_message()


def test_the_file_is_what_ray_and_ec2_take() -> None:
    assert list(problems(FILE.read_text())) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max_workers: 16 # CHANGE: machines", "max_worker: 16 # CHANGE: machines"),
        ("upscaling_speed: 4.0", "upscaling_speed: fast"),
        ("provider:\n", "providers:\n"),
        ("head_node_type: head", "head_node_type: heads"),
        ("    min_workers: 0", "    min_worker: 0"),
        ("    resources: {CPU: 8, GPU: 1}", "    resources: {CPU: 8, GPU: one}"),
        ("  worker_image: labeler:cuda", "  workers_image: labeler:cuda"),
        ("      InstanceType: g6.2xlarge", "      InstanceTyp: g6.2xlarge"),
        ("        MarketType: spot", "        MarketTyp: spot"),
        ("VolumeSize: 100", "VolumeSize: large"),
        ("--num-cpus=0", "--num-cpu=0"),
        ("ulimit -n 65536; ray start --address", "ulimit -n 65536; ( ray start --address"),
        ("cluster_name: labeler\n", ""),
    ],
)
def test_a_broken_file_is_not(right: str, wrong: str) -> None:
    text = FILE.read_text()
    assert right in text
    assert list(problems(text.replace(right, wrong, 1)))


def test_its_head_does_no_work_and_its_gpus_are_spot_machines_that_come_with_the_work() -> None:
    (config,) = load_all(FILE.read_text())
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert kinds["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert kinds["gpu-spot"]["min_workers"] == 0
    assert all(kind["node_config"]["IamInstanceProfile"] for kind in kinds.values())
