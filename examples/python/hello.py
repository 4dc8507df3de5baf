"""An agent that answers. The model is scripted, so that this runs anywhere; `Compatible` takes its place for a real
one."""

from lomusai import Agent, ScriptedModel

# model = Compatible("https://api.openai.com/v1", api_key_env="OPENAI_API_KEY", model="gpt-4o-mini")
model = ScriptedModel([{"says": "Hello from Lomusai!"}])

agent = Agent("hello", model, instructions="Answer in one sentence.")
print(agent.generate("Say hello.").text)
