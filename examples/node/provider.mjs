// A model of your own: an async generator that yields texts, tool calls and usage.
import { Agent, LlmProvider } from '@lomusai/node';

class Echo extends LlmProvider {
  async *stream(request) {
    const said = request.messages.at(-1).parts.map((part) => part.text).join('');
    for (const word of said.split(' ')) yield `${word} `;
    yield { type: 'usage', usage: { input: said.length, output: said.length } };
  }
}

const agent = new Agent({ name: 'echo', model: new Echo() });
const result = await agent.generate('the sea is salt');
console.log(result.text.trim(), JSON.stringify(result.usage));
