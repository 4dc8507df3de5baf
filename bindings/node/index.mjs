// The same module for `import`: one copy of the classes, whichever way it is loaded.
import lomusai from './index.js';

export const {
  Agent,
  Answer,
  Engine,
  LlmProvider,
  Result,
  RunStream,
  Tool,
  compatible,
  reply,
  scriptedModel,
  tool,
  version,
  LomusaiError,
  InvalidError,
  NotFoundError,
  ConflictError,
  DeniedError,
  RateLimitedError,
  UnavailableError,
  TimeoutError,
  CancelledError,
  LimitError,
  StorageError,
  ToolError,
  ProviderError,
  HostError,
  ClosedError,
  InternalError,
} = lomusai;

export default lomusai;
