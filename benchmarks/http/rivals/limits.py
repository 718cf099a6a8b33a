"""How many requests a FastAPI rival computes at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI


@asynccontextmanager
async def limited_threads(_: FastAPI) -> AsyncIterator[None]:
    """Gives the thread pool `RIVAL_CONCURRENCY` threads; without it FastAPI's own 40."""
    if concurrency := os.environ.get("RIVAL_CONCURRENCY"):
        anyio.to_thread.current_default_thread_limiter().total_tokens = int(concurrency)
    yield
