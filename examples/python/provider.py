"""A model provider in Python: an async generator of text and other chunks."""

import asyncio
from collections.abc import AsyncIterator

from lomusai import Agent, Chunk, LlmProvider, ModelRequest


class Parrot(LlmProvider):
    async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
        last = request["messages"][-1]["parts"][0]["text"]
        for word in last.split():
            await asyncio.sleep(0)
            yield word.upper() + " "
        yield {"type": "usage", "usage": {"input": 3, "output": 3}}


agent = Agent("parrot", Parrot())
result = asyncio.run(agent.agenerate("polly wants salt"))
print(result.text.strip())
print(result.usage)
