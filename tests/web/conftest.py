"""A real browser, and the status document of a cluster at work for it to show."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium, headless."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(NAMES)} is installed, the page goes untested")
    # Chromium's sandbox refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=program, args=flags)
        yield found
        await found.close()


@pytest.fixture
def document() -> dict[str, Any]:
    """What the peer that holds the run table of a cluster of four says in the middle of a run."""
    return {
        "version": 1,
        "cluster": "local",
        "peer": {
            "name": "peer-0",
            "incarnation": 123,
            "roles": ["shard", "worker"],
            "address": "127.0.0.1:7000",
            "device": "PoCL, cpu-cascadelake",
            "uptime": 3723.4,
            "pid": 4711,
        },
        "coordinator": {
            "kind": "embedded",
            "state": "connected",
            "leader": "peer-1",
            "term": [1, 17],
            "is_leader": False,
        },
        "members": {
            "peer-0": {
                "incarnation": 123,
                "roles": ["shard", "worker"],
                "address": "127.0.0.1:7000",
                "status": "127.0.0.1:41000",
                "device": "PoCL, cpu-cascadelake",
            },
            "peer-1": {
                "incarnation": 124,
                "roles": ["shard", "worker"],
                "address": "127.0.0.1:7001",
                "status": "127.0.0.1:41001",
                "device": "NVIDIA H200",
            },
            "peer-10": {
                "incarnation": 126,
                "roles": ["worker"],
                "address": "10.0.0.5:7010",
                "status": "0.0.0.0:41010",
                "device": "numpy",
            },
            "peer-2": {
                "incarnation": 125,
                "roles": [],
                "address": "127.0.0.1:7002",
                "status": "[::1]:41002",
                "device": None,
            },
        },
        "map": {
            "serial": 3,
            "tables": {
                "mnist-mlp/model": {
                    "size": 669706,
                    "slices": 17,
                    "held": 9,
                    "clock": 1412,
                    "applied": 12708,
                    "repeated": 3,
                    "refused": 0,
                    "staleness": {"mean": 0.134, "max": 3},
                },
                "other": {"size": 256, "slices": 1, "held": 0},
            },
        },
        "run": {
            "run": "mnist-mlp",
            "attempt": 1,
            "phase": "train",
            "status": "running",
            "error": None,
            "exit_code": 0,
            "consistency": "ssp",
            "epochs": 3,
            "epochs_wanted": 5,
            "clock": 0,
            "steps": 1412,
            "examples": 180736,
            "examples_wanted": 300000,
            "repeated_examples": 128,
            "seconds": 9.4,
            "samples_per_second": 19227.2,
            "loss": 0.08123,
            "recent_loss": 0.0521,
            "recent_accuracy": 0.9843,
            "test_loss": None,
            "test_accuracy": None,
            "staleness": {"mean": 0.134, "max": 3, "versions_mean": 1.2, "clocks": {"0": 9}},
            "pushes": {"applied": 1412, "duplicate": 3, "refused": 0},
            "workers": {
                "peer-0": {
                    "incarnation": 123,
                    "device": "PoCL, cpu-cascadelake",
                    "clock": 706,
                    "examples": 90368,
                    "heard_ago": 0.04,
                },
                "peer-1": {
                    "incarnation": 124,
                    "device": "NVIDIA H200",
                    "clock": 704,
                    "examples": 90112,
                    "heard_ago": 2.21,
                },
            },
            "dropped": {"peer-10": "not heard of for 7.1 s"},
        },
    }
