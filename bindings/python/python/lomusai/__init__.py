"""Lomusai: agents with durable runs, whose tools and models are plain Python.

from lomusai import Agent, ScriptedModel, tool

@tool
def add(a: int, b: int) -> int:
    "Adds two numbers."
    return a + b

agent = Agent("helper", Compatible("https://api.openai.com/v1", api_key=…), tools=[add])
print(agent.generate("What is 2 + 3?").text)
"""

# First: it chooses the compiled part that the others import.
from . import _edition as _edition
from ._agent import Agent, Input
from ._call import CallContext, StepContext, ToolContext
from ._engine import Engine, default_engine
from ._history import Difference, Fit, Retention, RunFilter
from ._lomusai import __version__
from ._models import Chunk, Compatible, LlmProvider, ModelOf, ModelRequest, Provider, ScriptedModel
from ._run import Observer, Result, Stream, TextStream
from ._schedules import ScheduleState
from ._step import FatalError, Step, expr, path, step
from ._tool import ClientTool, Tool, ToolOutput, tool
from ._workflow import Workflow, workflow
from .errors import (
    CancelledError,
    ClosedError,
    ConflictError,
    DeniedError,
    HostError,
    InternalError,
    InvalidError,
    LimitError,
    LomusaiError,
    NotFoundError,
    ProviderError,
    RateLimitedError,
    StorageError,
    TimeoutError,
    ToolError,
    UnavailableError,
)

__all__ = [
    "Agent",
    "CallContext",
    "CancelledError",
    "Chunk",
    "ClientTool",
    "ClosedError",
    "Compatible",
    "ConflictError",
    "DeniedError",
    "Difference",
    "Engine",
    "FatalError",
    "Fit",
    "HostError",
    "Input",
    "InternalError",
    "InvalidError",
    "LimitError",
    "LlmProvider",
    "LomusaiError",
    "ModelOf",
    "ModelRequest",
    "NotFoundError",
    "Observer",
    "Provider",
    "ProviderError",
    "RateLimitedError",
    "Result",
    "Retention",
    "RunFilter",
    "ScheduleState",
    "ScriptedModel",
    "Step",
    "StepContext",
    "StorageError",
    "Stream",
    "TextStream",
    "TimeoutError",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolOutput",
    "UnavailableError",
    "Workflow",
    "__version__",
    "default_engine",
    "expr",
    "path",
    "step",
    "tool",
    "workflow",
]
