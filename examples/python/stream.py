"""Reading a run as it goes: text piece by piece, or every event, with `for` or `async for`."""

import asyncio

from lomusai import Agent, ScriptedModel

agent = Agent("poet", ScriptedModel([{"says": "Salt on the wind, and a sail far out."}]))

for piece in agent.stream("A line about the sea, please.").text:
    print(piece, end="|")
print()


async def main() -> None:
    stream = agent.stream("Another one, please.")
    async for event in stream:
        if event["type"] == "message_completed":
            print("message:", event["message"]["role"])
    print("status:", (await stream.aresult()).status)


asyncio.run(main())
