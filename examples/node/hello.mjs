// An agent on a model that answers from a script. Replace `scriptedModel(…)` by `compatible({ baseUrl, apiKey, model })` for a real one.
import { Agent, scriptedModel } from '@lomusai/node';

const agent = new Agent({
  name: 'greeter',
  model: scriptedModel([{ says: 'Hello, world!' }]),
  instructions: 'You greet people.',
});

const result = await agent.generate('Say hello.');
console.log(result.text);
