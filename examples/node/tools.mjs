// A tool with typed arguments. What the model gets wrong about them is told to the model, and it tries again.
import { Agent, scriptedModel, tool } from '@lomusai/node';

const weather = tool({
  name: 'weather',
  description: 'The weather in a city.',
  inputSchema: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
  execute: async ({ city }, { signal }) => {
    signal.throwIfAborted();
    return { city, sky: 'clear', celsius: 21 };
  },
});

const agent = new Agent({
  name: 'forecaster',
  model: scriptedModel([
    { calls: [{ name: 'weather', arguments: { town: 'Ghent' } }] },
    { calls: [{ name: 'weather', arguments: { city: 'Ghent' } }] },
    { says: 'It is 21 degrees in Ghent, with a clear sky.' },
  ]),
  tools: [weather],
});

const result = await agent.generate('What is the weather in Ghent?');
for (const message of result.newMessages) {
  for (const part of message.parts) {
    if (part.type === 'tool_result') console.log(part.status ?? 'ok', JSON.stringify(part.output));
  }
}
console.log(result.text);
