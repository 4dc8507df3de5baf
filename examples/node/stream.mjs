// Events as they happen. Leaving the loop cancels the run.
import { Agent, scriptedModel, tool } from '@lomusai/node';

const count = tool({
  name: 'count',
  description: 'Counts to three.',
  execute: (_, context) => {
    for (const n of [1, 2, 3]) context.progress({ n });
    return 'three';
  },
});

const agent = new Agent({
  name: 'counter',
  model: scriptedModel([{ calls: [{ name: 'count' }] }, { says: 'One two three.' }]),
  tools: [count],
});

const stream = agent.stream('Count to three.');
for await (const event of stream) {
  switch (event.type) {
    case 'part_delta':
      if (event.text) console.log('text', event.text);
      break;
    case 'effect_progress':
      console.log('progress', JSON.stringify(event.data));
      break;
    case 'run_finished':
      console.log('finished', event.outcome);
      break;
    default:
  }
}
console.log((await stream.result).text);

for await (const text of agent.stream('Count again.').textStream) process.stdout.write(text);
console.log();
