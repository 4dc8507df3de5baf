// Types of Lomusai for Node. Written by hand, but for the errors and events, which every language gets from one table.

import type {
  DurableEvent, EffectKind, ErrorBody, FinishReason, LogLevel, Message, Part, Pending, Role, RunEvent, RunInfo, RunStatus, SpecKind, Usage,
} from './lib/events';

export * from './lib/events';
export {
  LomusaiError, InvalidError, NotFoundError, ConflictError, DeniedError, RateLimitedError, UnavailableError, TimeoutError,
  CancelledError, LimitError, StorageError, ToolError, ProviderError, HostError, ClosedError, InternalError,
} from './lib/errors';
import { InvalidError } from './lib/errors';
export type { ErrorCode, ErrorKind } from './lib/errors';

// --- Schemas -------------------------------------------------------------------------------------------------------------------

/** The part of the Standard Schema interface that is needed here: zod, valibot, arktype and others have it. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => any;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

/** A JSON Schema. Write it `as const` to have the type of the arguments inferred. */
export type JsonSchema = { readonly [keyword: string]: unknown };

export type Schema = StandardSchema<any, any> | JsonSchema;

/** What a schema's own checks make of a value. */
export type InferOutput<S> = S extends { readonly '~standard': { readonly types?: infer T } }
  ? NonNullable<T> extends { readonly output: infer Output } ? Output : unknown
  : S extends JsonSchema ? FromJsonSchema<S> : any;

/** The type that a JSON Schema written `as const` describes, as far as it is made of the plain keywords. */
export type FromJsonSchema<S> =
  S extends { readonly const: infer Value } ? Value
  : S extends { readonly enum: readonly (infer Value)[] } ? Value
  : S extends { readonly type: 'string' } ? string
  : S extends { readonly type: 'number' | 'integer' } ? number
  : S extends { readonly type: 'boolean' } ? boolean
  : S extends { readonly type: 'null' } ? null
  : S extends { readonly type: 'array'; readonly items: infer Item } ? FromJsonSchema<Item>[]
  : S extends { readonly type: 'array' } ? unknown[]
  : S extends { readonly type: 'object'; readonly properties: infer P } ? FromProperties<P, Required<S>>
  : any;

type Required<S> = S extends { readonly required: readonly (infer Name)[] } ? Name : never;
type FromProperties<P, R> = Flat<
  { -readonly [K in keyof P as K extends R ? K : never]: FromJsonSchema<P[K]> } &
  { -readonly [K in keyof P as K extends R ? never : K]?: FromJsonSchema<P[K]> }
>;
type Flat<T> = { [K in keyof T]: T[K] };

// --- Calls ---------------------------------------------------------------------------------------------------------------------

/** What a callable knows about its call. */
export interface CallContext {
  readonly runId: string;
  readonly effectId: string;
  /** The same for every attempt of this call, in every process. */
  readonly idempotencyKey: string;
  readonly callId?: string;
  readonly agent: string;
  /** Counts from 1. */
  readonly attempt: number;
  /** When the call times out, in milliseconds since 1970. */
  readonly deadlineMs?: number;
  /** What the caller of the run wants its functions to know. */
  readonly context: Record<string, any>;
  /** Aborted once the result is not wanted any more. */
  readonly signal: AbortSignal;
  /** What is asked, as the JSON text that came. */
  readonly rawInput: string;
  /** Tells the run's readers how far the call is. */
  progress(data: unknown): void;
  /** Tells the run's readers something; `durable` keeps it in the journal. */
  custom(name: string, data: unknown, options?: { durable?: boolean }): void;
}

/** What a tool knows about its call. */
export interface ToolContext<Resume = any, Suspend = any> extends CallContext {
  /** What the tool was resumed with after it had suspended. */
  readonly resumeData: Resume | undefined;
  /** Waits for a `resume` command instead of answering: `return ctx.suspend(payload)`. The tool is then called again. */
  suspend(payload: Suspend): any;
}

/** The handle a call is answered by: now, later, from anywhere. The first answer counts. */
export declare class Answer implements CallContext {
  private constructor();
  readonly runId: string;
  readonly effectId: string;
  readonly idempotencyKey: string;
  readonly callId?: string;
  readonly agent: string;
  readonly attempt: number;
  readonly deadlineMs?: number;
  readonly context: Record<string, any>;
  readonly signal: AbortSignal;
  readonly rawInput: string;
  readonly resumeData: any;
  progress(data: unknown): void;
  custom(name: string, data: unknown, options?: { durable?: boolean }): void;
  /** @throws `already_answered`; `handle_closed` when it comes too late. */
  resolve(value: unknown): void;
  /** In full: a tool's `{ output, content }`; a step's `{ output }`, `{ suspend, label }` or `{ bail }`, each with `state`. */
  reply(reply: {
    output?: unknown; content?: Part[]; suspend?: unknown; label?: string; bail?: unknown; state?: Record<string, unknown>;
  }): void;
  suspend(payload: unknown): void;
  reject(error: unknown): void;
  readonly answered: boolean;
  readonly cancelled: boolean;
}

/** A tool's result with images or files beside it. */
export declare class ToolReply {
  private constructor();
  output: unknown;
  content?: Part[];
}

export declare function reply(output: unknown, content?: Part[]): ToolReply;

// --- Tools ---------------------------------------------------------------------------------------------------------------------

export interface ToolOptions<I extends Schema = JsonSchema, R extends Schema = JsonSchema, S extends Schema = JsonSchema> {
  /** What the model calls it: letters, digits, `_` and `-`, at most 64. */
  name: string;
  /** What it does, for the model. */
  description?: string;
  /** The arguments: a JSON Schema, or any Standard Schema that can say itself as one. Default: an object of anything. */
  inputSchema?: I;
  /** The result, as JSON Schema or Standard Schema. One that does not fit is an error told to the model. */
  outputSchema?: Schema;
  /** What it is resumed with. */
  resumeSchema?: R;
  /** What it tells when it suspends. */
  suspendSchema?: S;
  /** Whether each call, or this one, waits for a person. */
  requireApproval?: boolean | ((input: NoInfer<InferOutput<I>>, context: CallContext) => boolean | Promise<boolean>);
  /** Whether it may suspend. Default: whether it has a schema for that. */
  maySuspend?: boolean;
  /** Longest call, in milliseconds. Default 300,000. */
  timeoutMs?: number;
  /** Carries it out. Without this and `onCall` it is a client tool: the run waits for `toolResult`. */
  execute?: (input: InferOutput<I>, context: ToolContext<InferOutput<R>, InferOutput<S>>) => unknown;
  /** Takes the call and answers it now or later. */
  onCall?: (input: any, answer: Answer) => void;
}

export declare class Tool {
  private constructor();
  readonly name: string;
  /** The spec as the engine takes it. */
  readonly spec: Record<string, unknown>;
}

/** Describes a function that models may call. */
export declare function tool<
  const I extends Schema = JsonSchema,
  const R extends Schema = JsonSchema,
  const S extends Schema = JsonSchema,
>(options: ToolOptions<I, R, S>): Tool;

// --- Workflows -----------------------------------------------------------------------------------------------------------------

/** What a step of a workflow knows about its call. It may come more than once for one step of a run: the attempt differs then, the
 * idempotency key does not. */
export interface StepContext<Resume = any, Suspend = any> extends CallContext {
  /** The workflow's name. */
  readonly workflow: string;
  /** What the step was resumed with after it had suspended. */
  readonly resumeData: Resume | undefined;
  /** The state of the run when the call began, with what was set since. */
  readonly state: Record<string, any>;
  /** Sets values of the run's state, `null` removes one. Recorded together with the answer, unless that is an error. */
  setState(values: Record<string, unknown>): void;
  /** Waits for a `resume` command instead of answering: `return ctx.suspend(payload, { label })`. The step is then called again. */
  suspend(payload?: Suspend, options?: { label?: string }): never;
  /** Ends the whole run, as a success, with this result: `return ctx.bail(result)`. */
  bail(result?: unknown): never;
}

/** A failure that no further attempt can mend. */
export declare class FatalError extends InvalidError {
  constructor(message: string, options?: { cause?: unknown });
}

/** A value that is made while a run goes on. */
export declare class Made {
  private constructor();
  private made: true;
}

/** What is at a path: `input.user.id`, `steps.fetch.items.0`, `state.total`, `item`, `index`, `iteration`. What is not there is null. */
export declare function path(of: string): Made;
/** What an expression gives: `expr("'Dear ' ~ input.name")`. */
export declare function expr(text: string): Made;

/** What a condition that is a function is asked. */
export interface Asked {
  workflow: string;
  step: string;
  input: any;
  state: Record<string, any>;
  item?: any;
  index?: number;
  iteration?: number;
  output?: any;
}

/** An expression such as `steps.check.amount > 100`, or a function. One that fails counts as not holding. */
export type Condition = string | ((asked: Asked, context: CallContext) => boolean | Promise<boolean>);

/** How often a failed step is tried again. */
export type Retry = number | { max: number; delayMs?: number; factor?: number; delayMaxMs?: number };

export interface StepOptions<
  I extends Schema = JsonSchema, O extends Schema = JsonSchema, R extends Schema = JsonSchema, S extends Schema = JsonSchema, Output = any,
> {
  /** What the function is registered as. */
  name: string;
  /** The step's id in the workflow. Default: its name. */
  id?: string;
  description?: string;
  /** What it is given: a JSON Schema, or any Standard Schema that can say itself as one. */
  inputSchema?: I;
  /** What it gives. */
  outputSchema?: O;
  /** What it tells when it suspends. */
  suspendSchema?: S;
  /** What it is resumed with. */
  resumeSchema?: R;
  /** Default: what the workflow says. */
  retry?: Retry;
  /** Longest attempt, in milliseconds. Default 300,000. */
  timeoutMs?: number;
  metadata?: Record<string, unknown>;
  /** Does the work. What it throws is a failure, tried again as `retry` says; a {@link FatalError} is not. */
  execute?: (input: InferOutput<I>, context: StepContext<InferOutput<R>, InferOutput<S>>) => Output | Promise<Output>;
  /** Takes the call and answers it now or later. */
  onCall?: (input: any, answer: Answer) => void;
}

/** A step of a workflow: what it runs, and what it says of its place. Its methods give changed copies. */
export declare class Step<In = any, Out = any> {
  private constructor();
  readonly name: string;
  readonly id: string;
  /** What is said of it so far, as the engine takes it. */
  readonly spec: Record<string, unknown>;
  readonly execute?: (input: In, context: StepContext) => Out | Promise<Out>;
  /** The same, behind these steps, in place of behind the link before. */
  after(...steps: (string | Step | (string | Step)[])[]): this;
  /** The same, run only if this holds. */
  when(condition: Condition): this;
  /** The same, given this in place of what the step before gave: `path(…)`, `expr(…)`, or a value in which they are. */
  takes(input: unknown): this;
  /** The same, saying what becomes of it when steps before it were skipped. */
  needs(needs: 'any' | 'all' | 'none'): this;
  /** The same under another id. */
  named(id: string): this;
  /** The same, tried again so often when it fails. */
  retried(retry: Retry): this;
  /** The same, with words about it. */
  describe(description: string): this;
}

/** A step whose function is registered under this name. */
export declare function step(name: string): Step;
/** A step of a function. What it gives is inferred from its `outputSchema`, else from what the function returns. */
export declare function step<
  const I extends Schema = JsonSchema, const O extends Schema = JsonSchema, const R extends Schema = JsonSchema,
  const S extends Schema = JsonSchema, Output = any,
>(options: StepOptions<I, O, R, S, Output>): Step<InferOutput<I>, Schema extends O ? Output : JsonSchema extends O ? Output : InferOutput<O>>;

/** What a link can run: a step, a workflow, an agent, a tool, a function of the input, or the name of a registered step function. */
export type Runs<In = any, Out = any> =
  | Step<In, Out>
  | Workflow<In, Out>
  | Agent<any>
  | Tool
  | string
  | ((input: In, context: StepContext) => Out | Promise<Out>);

export interface WorkflowOptions<I extends Schema = JsonSchema, O extends Schema = JsonSchema> {
  description?: string;
  inputSchema?: I;
  outputSchema?: O;
  /** Of steps that do not say otherwise. Default: none. */
  retry?: Retry;
  limits?: Limits;
  metadata?: Record<string, unknown>;
  /** Where it runs. Default: an engine of its own, in memory. */
  engine?: Engine;
}

export interface WorkflowRunOptions {
  runId?: string;
  /** What the caller wants its functions to know. */
  context?: Record<string, unknown>;
  /** Keys of `context` that are not journaled. */
  transient?: string[];
  /** The run's state at the start. */
  state?: Record<string, unknown>;
  /** Whether the run goes on when its reader goes away. */
  detached?: boolean;
  /** Cancels the run; its promise rejects with `signal.reason`. */
  signal?: AbortSignal;
}

/**
 * A workflow that is built by its methods, each of which gives a longer one. A link comes after all steps before it that nothing else comes
 * after. Steps in one link run side by side. What a step gives is the next one's input.
 */
export declare class Workflow<In = any, Out = any> {
  private constructor();
  readonly name: string;
  readonly engine: Engine;
  /** The workflow's spec, as in every language. */
  readonly spec: { name: string; steps: Record<string, unknown>[]; [field: string]: unknown };

  /** One more step. */
  then<Next>(step: Runs<Out, Next>): Workflow<In, Next>;
  /** Steps side by side. Gives an object of what each gave, by id. */
  parallel(steps: Iterable<Runs<Out>>): Workflow<In, Record<string, any>>;
  /** All steps whose condition holds, side by side. Gives an object of what those gave that ran. What follows runs whichever did. */
  branch(arms: Iterable<readonly [Condition, Runs<Out>]>): Workflow<In, Record<string, any>>;
  /** A step for each item of the list that the step before gave. Gives a list of what each gave, in order. */
  foreach<Next>(
    step: Runs<Out extends readonly (infer Item)[] ? Item : any, Next>,
    options?: { concurrency?: number; id?: string },
  ): Workflow<In, Next[]>;
  /** A step that runs, and again with what it gave as long as the condition holds. */
  dowhile<Next>(step: Runs<any, Next>, condition: Condition, options?: { max?: number; id?: string }): Workflow<In, Next>;
  /** As `dowhile`, until the condition holds. */
  dountil<Next>(step: Runs<any, Next>, condition: Condition, options?: { max?: number; id?: string }): Workflow<In, Next>;
  /** A function of the input. */
  map<Next>(execute: (input: Out, context: StepContext) => Next | Promise<Next>, options?: { id?: string }): Workflow<In, Next>;
  /** Works a value out: `path(…)`, `expr(…)`, or objects and lists in which they are. */
  map(value: unknown, options?: { id?: string }): Workflow<In, any>;
  /** Waits so many milliseconds, across restarts. */
  sleep(ms: number | Made, options?: { id?: string }): Workflow<In, Out>;
  /** Waits until then: a `Date`, or milliseconds since 1970. */
  sleepUntil(time: Date | number | Made, options?: { id?: string }): Workflow<In, Out>;
  /** Waits for a signal, and gives its data. One that came earlier counts. */
  waitFor<const D extends Schema = JsonSchema>(
    signal: string,
    options?: { timeoutMs?: number; dataSchema?: D; id?: string },
  ): Workflow<In, InferOutput<D>>;
  /** Waits for `resume`, and gives its data. */
  suspend<const D extends Schema = JsonSchema>(
    options?: { payload?: unknown; label?: string; dataSchema?: D; id?: string },
  ): Workflow<In, InferOutput<D>>;
  /** Ends the run as a success with this; with `when` only if that holds. */
  bail(result?: unknown, options?: { when?: Condition; id?: string }): Workflow<In, Out>;
  /** Steps in the style of dependencies: each comes after what it says by `after`, and after nothing else. */
  add(...steps: (Runs | Runs[])[]): Workflow<In, any>;
  /** What the run comes to, as in `map`. */
  output(value: unknown): Workflow<In, any>;

  /** Runs the workflow until it ends or waits for somebody. What it came to is the result's `object`. */
  run(input?: In, options?: WorkflowRunOptions): Promise<Result<Out>>;
  /** Runs the workflow and gives its events. */
  stream(input?: In, options?: WorkflowRunOptions): RunStream<Out>;
  /** Begins a run that nobody waits for, and gives its id once its start is recorded. */
  start(input?: In, options?: Omit<WorkflowRunOptions, 'detached' | 'signal'>): Promise<string>;
  /** What a run came to, or where it waits; waits while it is at work here. */
  result(runId: string): Promise<Result<Out>>;
  /** Goes on with a step that suspended, which is given `data`, and gives what the run came to. */
  resume(runId: string, data?: unknown, options?: ResumeOptions): Promise<Result<Out>>;
  /** Takes up a run that failed: what was done stays done, what failed begins again. */
  retry(runId: string, options?: { signal?: AbortSignal }): Promise<Result<Out>>;
  /** Tells a run that something happened; done once that is recorded. Kept until a step waits for it. */
  signal(runId: string, name: string, data?: unknown): Promise<void>;
  /** Asks for a run to be cancelled; done once that is recorded. */
  cancel(runId: string, options?: { graceMs?: number; reason?: string }): Promise<void>;
}

/** A workflow without steps, to be built: `workflow('refund').then(check).branch([…])`. */
export declare function workflow<const I extends Schema = JsonSchema, const O extends Schema = JsonSchema>(
  name: string,
  options?: WorkflowOptions<I, O>,
): Workflow<InferOutput<I>, InferOutput<I>>;

// --- Providers -----------------------------------------------------------------------------------------------------------------

export interface ModelTool {
  name: string;
  description?: string;
  input_schema: JsonSchema;
}

export type ToolChoice = 'auto' | 'none' | 'required' | { tool: string };

/** A question to a model. */
export interface ModelRequest {
  model?: string;
  messages: Message[];
  tools?: ModelTool[];
  tool_choice: ToolChoice;
  settings: Record<string, any>;
  output?: { schema: JsonSchema; name?: string };
}

/** A piece of a model's answer. A plain text is a `text` chunk. */
export type ModelChunk =
  | string
  | { type: 'text'; text: string }
  | { type: 'reasoning'; text?: string; signature?: string; encrypted?: string }
  | { type: 'tool_call'; name: string; arguments?: unknown; id?: string; signature?: string }
  | { type: 'tool_call_delta'; index: number; name?: string; id?: string; arguments?: string }
  | { type: 'part'; part: Part }
  | { type: 'metadata'; key: string; value: unknown }
  | { type: 'usage'; usage: Usage }
  | { type: 'finish'; reason?: FinishReason };

type Chunks = AsyncIterable<ModelChunk> | Iterable<ModelChunk>;

/** A model: any object with this method. */
export interface Provider {
  name?: string;
  stream(request: ModelRequest, context: CallContext): Chunks | Promise<Chunks>;
}

/** A model of your own: `class Mine extends LlmProvider { async *stream(request, ctx) { yield 'text'; } }`. */
export declare class LlmProvider implements Provider {
  constructor(options?: { name?: string });
  name?: string;
  stream(request: ModelRequest, context: CallContext): Chunks | Promise<Chunks>;
}

/** A provider that comes with the engine. */
export declare class BuiltinProvider {
  private constructor();
  name?: string;
}

export interface ScriptedAnswer {
  says?: string;
  reasons?: string;
  calls?: { name: string; arguments?: unknown; id?: string }[];
  chunks?: Exclude<ModelChunk, string>[];
  error?: { code: string; message?: string; retry_after_ms?: number };
  hangs?: boolean;
  usage?: Usage;
  attempts?: ScriptedAnswer[];
}

/** A model that answers from JSON: the n-th model call of a run gets the n-th answer. */
export declare function scriptedModel(
  script: ScriptedAnswer[] | { answers: ScriptedAnswer[]; repeat?: boolean },
  options?: { name?: string },
): BuiltinProvider;

export interface CompatibleOptions {
  name?: string;
  /** Up to, and without, `/chat/completions`. */
  baseUrl: string;
  apiKey?: string;
  /** The environment variable that holds the key. */
  apiKeyEnv?: string;
  headers?: Record<string, string>;
  model?: string;
  /** The address of a proxy, or `none`. */
  proxy?: string;
  caFile?: string;
  caPem?: string;
  timeouts?: { connectMs?: number; idleMs?: number };
  maxEventBytes?: number;
}

/** Models behind any server that speaks OpenAI's Chat Completions. */
export declare function compatible(options: CompatibleOptions): BuiltinProvider;

// --- Agents --------------------------------------------------------------------------------------------------------------------

export type Input = string | MessageInput | MessageInput[];
export type MessageInput = Message | { role: Role; content: string | Part[] };

export interface ModelSettings {
  temperature?: number;
  topP?: number;
  topK?: number;
  maxOutputTokens?: number;
  stopSequences?: string[];
  presencePenalty?: number;
  frequencyPenalty?: number;
  seed?: number;
  maxRetries?: number;
  provider?: Record<string, unknown>;
}

export interface Limits {
  runMs?: number;
  modelMs?: number;
  toolMs?: number;
  functionMs?: number;
  messageBytes?: number;
  resultBytes?: number;
  runBytes?: number;
  depth?: number;
}

/** A function that a spec names: given itself, or by the name it is registered under. */
export type Named<Question = any, Reply = any> = string | ((question: Question, context: CallContext) => Reply | Promise<Reply>);

export type StopCondition =
  | { type: 'tool_called'; tool: string }
  | { type: 'text_contains'; text: string }
  | { type: 'function'; function: string }
  | ((question: { step: number; message: Message; usage?: Usage }, context: CallContext) => boolean | Promise<boolean>);

type Abort = { abort: { reason: string; retry?: boolean } };

export interface Processors {
  input?: Many<Named<{ phase: 'input'; messages: Message[] }, { messages?: Message[] } | Abort | null | undefined | void>>;
  step?: Many<Named>;
  stream?: Many<Named<{ phase: 'stream'; text: string; end?: boolean }, { text?: string } | Abort | null | undefined | void>>;
  output?: Many<Named<{ phase: 'output'; text: string; object?: unknown }, { text?: string } | Abort | null | undefined | void>>;
  maxRetries?: number;
}

type Many<T> = T | T[];

export interface Hooks {
  beforeTool?: Named;
  afterTool?: Named;
  afterStep?: Named;
}

export type OutputOf<O> = O extends { readonly schema: infer S } ? InferOutput<S> : InferOutput<O>;
export type Output = Schema | { schema: Schema; name?: string; retries?: number };

export interface AgentOptions<O extends Output = JsonSchema> {
  name: string;
  /** The name of a registered provider, `provider/model`, or a provider. */
  model: string | Provider | BuiltinProvider;
  description?: string;
  /** The system message, or a function that gives one per run. */
  instructions?: string | ((question: { agent: string; input: Message[] }, context: CallContext) => string | Promise<string>);
  tools?: Iterable<Tool | string>;
  /** Agents that are offered as tools. */
  agents?: Iterable<Agent<any> | string>;
  /** The shape of the final answer. */
  output?: O;
  approval?: boolean | 'never' | 'always' | { function: string } | Exclude<Named<any, boolean>, string>;
  processors?: Processors;
  hooks?: Hooks;
  stop?: StopCondition[];
  settings?: ModelSettings;
  limits?: Limits;
  toolChoice?: ToolChoice;
  /** Most model calls in one run. Default 5. */
  maxSteps?: number;
  toolConcurrency?: number;
  /** Models to ask where the one before failed. */
  fallbacks?: (string | Fallback)[];
  /** What a run and its sub-agents may use. */
  budget?: Budget;
  metadata?: Record<string, unknown>;
  /** Where it runs; it is registered there at once. Default: an engine of its own, in memory. */
  engine?: Engine;
}

/** A model to ask where the one before failed. */
export interface Fallback {
  /** As an agent's `model` names one. */
  model: string;
  /** Default 0. */
  maxRetries?: number;
  disabled?: boolean;
  /** Over the agent's and the run's. */
  settings?: ModelSettings;
}

/** What may be used. What is absent is not bounded. */
export interface Budget {
  /** Of all kinds together. */
  tokens?: number;
  /** Money, in nano-dollars: $1 is 1e9. */
  costNanoUsd?: number;
  /** Calls of models, retries included. */
  calls?: number;
  /** Time in calls of models, in milliseconds. */
  modelMs?: number;
}

/** What a million tokens cost, in micro-dollars: $2.50 is 2,500,000. */
export interface Price {
  input: number;
  output: number;
  cache_read?: number;
  cache_write?: number;
  reasoning?: number;
  long?: { above: number; price: Price };
}

/** A model: what it can do, what it costs, and whether it can be asked now. What is absent is not known. */
export interface ModelInfo {
  provider: string;
  model?: string;
  configured?: boolean;
  missing?: string;
  context_tokens?: number;
  output_tokens?: number;
  tools?: boolean;
  vision?: boolean;
  reasoning?: boolean;
  structured_output?: boolean;
  price?: Price;
  as_of?: string;
  source?: string;
}

export interface RunOptions<O extends Output = JsonSchema> {
  /** The conversation before it: the `messages` of an earlier result. */
  history?: Message[];
  /** The stored conversation it belongs to. */
  thread?: string;
  /** Who owns the thread, when it is created. */
  resource?: string;
  runId?: string;
  /** What the caller wants its functions to know. */
  context?: Record<string, unknown>;
  /** Keys of `context` that are not journaled. */
  transient?: string[];
  /** Whether the run goes on when its reader goes away. */
  detached?: boolean;
  onBusy?: 'wait' | 'error';
  /** Cancels the run; its promise rejects with `signal.reason`. */
  signal?: AbortSignal;
  engine?: Engine;
  instructions?: string;
  settings?: ModelSettings;
  maxSteps?: number;
  toolChoice?: ToolChoice;
  activeTools?: string[];
  clientTools?: (Tool | Record<string, unknown>)[];
  output?: O;
  requireApproval?: boolean;
  timeoutMs?: number;
  savePerStep?: boolean;
  /** What the run may use, in place of the agent's budget. */
  budget?: Budget;
  /** Names of the engine's budgets that it draws on as well. */
  sharedBudgets?: string[];
}

/** A model with instructions, tools and rules. */
export declare class Agent<const O extends Output = JsonSchema> {
  constructor(options: AgentOptions<O>);
  readonly name: string;
  readonly engine: Engine;
  /** Runs the agent and gives what it came to. Rejects with the run's error if it failed. */
  generate<const P extends Output = O>(input: Input, options?: RunOptions<P>): Promise<Result<OutputOf<P>>>;
  /** Runs the agent and gives its events. What is wrong with the request is thrown at once. */
  stream<const P extends Output = O>(input: Input, options?: RunOptions<P>): RunStream<OutputOf<P>>;
}

export interface CommandOptions {
  /** Which of several that wait. */
  effectId?: string;
  signal?: AbortSignal;
}

export interface ResumeOptions extends CommandOptions {
  /** The label a step suspended under, in place of its effect. */
  label?: string;
}

/** What a run came to, or where it waits. */
export declare class Result<T = any> {
  private constructor();
  readonly runId: string;
  readonly status: RunStatus;
  readonly text: string;
  readonly object?: T;
  readonly finish?: FinishReason;
  readonly steps?: number;
  readonly usage: Usage;
  /** What it cost, in nano-dollars ($1 is 1e9); `null` where a price is not known, which is not nothing. */
  readonly costNanoUsd: number | null;
  /** The whole conversation: the next call's `history`. */
  readonly messages: Message[];
  /** What this run added to it. */
  readonly newMessages: Message[];
  /** What it waits for, when suspended. */
  readonly pending: Pending[];
  readonly error?: ErrorBody;
  approve(options?: CommandOptions): Promise<Result<T>>;
  decline(options?: CommandOptions & { reason?: string }): Promise<Result<T>>;
  resume(data: unknown, options?: ResumeOptions): Promise<Result<T>>;
  toolResult(output: unknown, options?: CommandOptions & { isError?: boolean }): Promise<Result<T>>;
}

/** A run's events. Leaving the loop early cancels the run. One loop reads them; the run waits for it. */
export declare class RunStream<T = any> implements AsyncIterable<RunEvent> {
  private constructor();
  readonly runId: string;
  readonly result: Promise<Result<T>>;
  readonly textStream: AsyncGenerator<string, void, void>;
  cancel(options?: { graceMs?: number; reason?: string }): void;
  [Symbol.asyncIterator](): AsyncIterableIterator<RunEvent>;
}

// --- Engines -------------------------------------------------------------------------------------------------------------------

export interface EngineOptions {
  /** The store's file. Default: in memory. */
  path?: string;
  /** What a commit waits for. */
  sync?: 'normal' | 'full';
  busyMs?: number;
  /** Finished runs kept in memory. Default 1,000; fewer, but 100, where they have more than 20,000 events together. */
  keepFinished?: number;
  threads?: number;
  /** Events kept for a reader before the run waits for it. Default 256. */
  readerEvents?: number;
  leaseMs?: number;
  recoveriesMax?: number;
  closeMs?: number;
  /** Settings of providers by the name before the slash of `provider/model`. Default: keys and addresses of the environment. */
  providers?: Record<string, { type?: string; [setting: string]: unknown }>;
  /** What is known of models over the table that comes along, prices first of all. */
  models?: ModelInfo[];
  /** Budgets that runs share, by name. */
  budgets?: Record<string, Budget>;
  /** Most calls, by provider. */
  providerLimits?: Record<string, { concurrency?: number; callsPerMinute?: number; cacheMs?: number; cacheEntries?: number }>;
  /** Records calls of models and tools, or gives them back. Default: what `LOMUSAI_CASSETTE` says. */
  cassette?: { mode: 'record' | 'replay' | 'auto'; path: string };
  /** Which runs that have ended are kept; see `prune`. Default: all. */
  retention?: Retention[];
  /** How long after its end a run's journal is compressed in the file, when the engine was started; null: never. Default: an hour. */
  compactAfterMs?: number | null;
  /** Takes the engine's notes. */
  onLog?: (note: { level: LogLevel; target: string; message: string }) => void;
}

export interface StartReport {
  recovered: string[];
  blocked: { run_id: string; error: ErrorBody }[];
  poisoned: string[];
  elsewhere: string[];
}

export type Command =
  | { type: 'approve'; effect_id?: string }
  | { type: 'decline'; effect_id?: string; reason?: string }
  | { type: 'resume'; effect_id?: string; label?: string; data?: unknown }
  | { type: 'signal'; name: string; data?: unknown }
  | { type: 'retry' }
  | { type: 'tool_result'; effect_id?: string; output?: unknown; is_error?: boolean }
  | { type: 'cancel'; grace_ms?: number; reason?: string };

export interface StartRequest {
  agent: string;
  input: Input;
  [field: string]: unknown;
}

export interface WorkflowRequest {
  workflow: string;
  input?: unknown;
  [field: string]: unknown;
}

/** Where a run is forked, and what is different in the fork. */
export interface ForkOptions {
  /** The last event that the fork begins with. */
  seq?: number;
  /** In place of `seq`: with `output`, where this effect last ended; else where it first began. */
  effectId?: string;
  /** What that effect answered, in the fork. Of a model: a text, or a message. */
  output?: unknown;
  /** What the step that begins there is given. Without a place: the run's input. */
  input?: unknown;
  /** The fork's id. Made by the engine when absent. */
  newRunId?: string;
  /** What the fork is found by, in place of what the run is. */
  metadata?: Record<string, unknown>;
  /** Further context, for this process; it is not journaled. */
  context?: Record<string, unknown>;
}

/** A thing in two runs. What is not there is absent. */
export interface Sides {
  left?: any;
  right?: any;
}

/** How two runs, `left` and `right`, differ. The first `same` events say the same in both; what is the same is left out. */
export interface Difference {
  left: string;
  right: string;
  same: number;
  input?: Sides;
  /** `{ status, component?, input?, output?, error? }` on each side. */
  effects?: ({ effect_id: string } & Sides)[];
  /** By id. */
  messages?: Record<string, Sides>;
  state?: Record<string, Sides>;
  outcome?: Sides;
}

/** Whether a stored run could go on under a spec. */
export interface Fit {
  run_id: string;
  status: RunStatus;
  /** Of the spec that the run is of. */
  hash: string;
  fits: boolean;
  needs_migration?: boolean;
  /** The event that cannot have been. */
  misfit?: { seq: number; effect_id?: string; why: string };
}

/** A workflow's spec, as in every language. */
export interface WorkflowSpec {
  name: string;
  steps: unknown[];
  [field: string]: unknown;
}

/** How runs of a workflow that began under one spec go on under the registered one. */
export interface Migration {
  /** The workflow or its name. A workflow that is not registered yet is registered. */
  workflow: string | Workflow<any, any>;
  /** The hash of the spec that runs began under: `hash` of `checkWorkflow`. */
  from: string;
  /** Steps that are named otherwise now, by their old name; `null` forgets one as if it had not run. */
  steps?: Record<string, string | null>;
  /** What steps came to, by their new names: in place of what was recorded, or of running. */
  outputs?: Record<string, unknown>;
  /** Values of the state that are set; `null` removes one. */
  state?: Record<string, unknown>;
  /** A registered function that is asked for each run, and answers `{ steps?, outputs?, state? }` over what is said here. */
  function?: string;
}

/** A rule about runs that have ended: which it is about, and how long or how many of them are kept. One of the two is needed. */
/** Which runs are meant: those for which all of this holds. */
export interface RunFilter {
  status?: RunStatus | RunStatus[];
  kind?: 'agent' | 'workflow';
  /** The agent's or workflow's name. */
  agent?: string;
  thread?: string;
  /** Children of this run. */
  parent?: string;
  /** Only runs that no other run started. */
  top?: boolean;
  /** With all of this in their metadata. */
  metadata?: Record<string, unknown>;
  /** Started at this time or later, in milliseconds since 1970. */
  createdFromMs?: number;
  /** Started before this time. */
  createdUntilMs?: number;
  /** That recorded nothing at this time or later. */
  quietSinceMs?: number;
  limit?: number;
  offset?: number;
}

export interface Retention {
  status?: RunStatus[];
  kind?: SpecKind;
  /** The agent's or workflow's name. */
  agent?: string;
  /** How long after their end, in milliseconds. */
  keepMs?: number;
  /** How many, the newest of them. */
  keepRuns?: number;
}

/** When runs begin by themselves, and which. */
export interface Schedule {
  /** Letters, digits, `_`, `-` and `.`, at most 64. */
  name: string;
  /** What starts a run, without a `run_id`. */
  request: StartRequest | WorkflowRequest;
  /** `minute hour day month weekday`, or `@daily` and the like. */
  cron?: string;
  /** In place of `cron`: an interval in milliseconds, counted from `from`. */
  everyMs?: number;
  /** Where the calendar hangs, such as `Europe/Berlin`. Default: UTC. */
  timezone?: string;
  /** What becomes of times at which no engine was there: nothing, one run for all of them, or a run for each. Default `once`. */
  missed?: 'skip' | 'once' | 'all';
  /** With `skip`, so late may a run begin and not count as missed. Default 60,000. */
  graceMs?: number;
  /** No run before this: a `Date`, or milliseconds since 1970. Default: now. */
  from?: Date | number;
  /** No run at this time or later. Default: never ends. */
  until?: Date | number;
  /** Whether it begins nothing for now. */
  paused?: boolean;
}

/** A schedule and where it stands. Times are in milliseconds since 1970; a `next_ms` that is absent never comes. */
export interface ScheduleState {
  name: string;
  request: Record<string, unknown>;
  cron?: string;
  every_ms?: number;
  timezone?: string;
  missed?: 'skip' | 'once' | 'all';
  grace_ms?: number;
  from_ms?: number;
  until_ms?: number;
  paused?: boolean;
  next_ms?: number;
  last_ms?: number;
  last_run?: string;
  last_error?: ErrorBody;
}

/** Runs agents. Without a `path`, runs are kept in memory. */
export declare class Engine implements AsyncDisposable {
  constructor(options?: EngineOptions);
  register(...components: (Component | Component[])[]): this;
  registerTool(tool: Tool): this;
  registerProvider(name: string, provider: Provider | BuiltinProvider): this;
  registerFunction(name: string, fn: (question: any, context: CallContext) => unknown): this;
  registerEmbedder(
    name: string,
    dimensions: number,
    embed: (texts: string[], context: CallContext) => number[][] | Promise<number[][]>,
  ): this;
  registerSpec(spec: { name: string; model: string; [field: string]: unknown }): this;
  registerWorkflow(spec: { name: string; steps: unknown[]; [field: string]: unknown }): this;
  unregister(kind: 'agent' | 'tool' | 'provider' | 'function' | 'embedder' | 'workflow' | 'step', name: string): boolean;
  has(kind: string, name: string, component: unknown): boolean;

  run(request: StartRequest | WorkflowRequest, options?: { signal?: AbortSignal }): RunStream;
  generate(request: StartRequest | WorkflowRequest, options?: { signal?: AbortSignal }): Promise<Result>;
  /** Begins a run that nobody waits for, and gives its id once its start is recorded. */
  launch(request: StartRequest | WorkflowRequest): Promise<string>;
  /** Goes on with runs that another process left. Register everything first. */
  start(): Promise<StartReport>;
  /** Lines about runs for which all of the filter holds, newest first, at most `limit` (default 100). */
  runs(filter?: RunFilter): Promise<RunInfo[]>;
  runInfo(runId: string): Promise<RunInfo>;
  /** Runs that wait for a command. */
  pending(): Promise<RunInfo[]>;
  /** The models that are known: what each can do and costs, and whether it can be asked now. */
  models(): Promise<ModelInfo[]>;
  /** The shared budgets, and what was spent of each. */
  budgets(): Promise<{ name: string; limit: Record<string, number>; spent: Record<string, number> }[]>;
  result(runId: string): Promise<Result>;
  /** A run's journal. */
  export(runId: string): Promise<DurableEvent[]>;
  digest(runId: string): Promise<string>;
  digestOf(events: readonly unknown[]): Promise<string>;
  deleteRun(runId: string): Promise<boolean>;
  /** Done once the command is recorded; the run goes on without a reader. */
  send(runId: string, command: Command): Promise<void>;
  /** Sends a command to a suspended run and gives its events from there. */
  stream(runId: string, command: Command, options?: { signal?: AbortSignal }): RunStream;
  approve(runId: string, options?: CommandOptions): Promise<Result>;
  decline(runId: string, options?: CommandOptions & { reason?: string }): Promise<Result>;
  resume(runId: string, data: unknown, options?: ResumeOptions): Promise<Result>;
  /** Takes up a workflow's run that failed, and gives what it came to. */
  retry(runId: string, options?: { signal?: AbortSignal }): Promise<Result>;
  /** Tells a workflow's run that something happened. Kept until a step waits for it. */
  signal(runId: string, name: string, data?: unknown): Promise<void>;
  toolResult(runId: string, output: unknown, options?: CommandOptions & { isError?: boolean }): Promise<Result>;
  cancel(runId: string, options?: { graceMs?: number; reason?: string }): Promise<void>;
  /** A run's events after `after`, those of the past first. Never slows the run; may lag. */
  observe(runId: string, options?: { after?: number }): AsyncGenerator<RunEvent, void, void>;

  /**
   * Begins another run that is as this one was at some event, with one thing changed, and gives its id. Nothing of what was before is
   * carried out again. The fork goes on without a reader: see `result` and `observe`.
   * @throws `run_unknown`; `fork_invalid`: there is no such place; `run_exists`, `run_blocked`, `workflow_changed`.
   */
  fork(runId: string, options: ForkOptions): Promise<string>;
  /** Begins another run with the same input, and gives its id. It goes on without a reader. Throws as `fork`. */
  restart(runId: string, options?: { newRunId?: string }): Promise<string>;
  /** How two runs differ, mostly one and its fork. @throws `run_unknown` */
  difference(left: string, right: string): Promise<Difference>;
  /**
   * Draws a registered workflow by its name; a workflow or spec, registered or not; or a run's workflow with each step in the colour of where
   * it stands. `svg` (default) is a picture by itself, `mermaid` a flowchart for documents that know it.
   * @throws `workflow_unknown`, `run_unknown`; `argument_invalid` for an agent's run; what is wrong with the spec.
   */
  picture(of: string | Workflow<any, any> | WorkflowSpec | { runId: string }, options?: { format?: 'svg' | 'mermaid' }): Promise<string>;
  /**
   * Whether the unfinished runs of a workflow could go on under this workflow or spec, with the migrations that are registered. It need not
   * be registered. Runs nothing. @throws what is wrong with the spec.
   */
  checkWorkflow(workflow: Workflow<any, any> | WorkflowSpec): Promise<Fit[]>;
  /**
   * Registers how runs that began under another spec of a workflow go on under the registered one. A run is migrated when it next goes on, and
   * its journal says so. Migrations are this engine's, not the store's.
   * @throws `workflow_unknown`; `name_taken`: there is one for this hash; `argument_invalid`: the workflow is of the spec `from` now.
   */
  registerMigration(migration: Migration): Promise<void>;
  /**
   * Removes runs that have ended and that a rule does not keep, with their children, and gives their ids. With `onlyTell`, only says which
   * would go. Default: the rules of the engine's settings. @throws `argument_invalid`: a rule bounds nothing.
   */
  prune(rules?: Retention[], options?: { onlyTell?: boolean }): Promise<string[]>;
  /**
   * Compresses the journals of runs that ended so long ago in the store's file, and gives how many. They read as before. Default: as the engine's
   * `compactAfterMs` says.
   */
  compact(options?: { endedMsAgo?: number }): Promise<number>;

  /**
   * Puts a schedule into the store, in place of one of the same name. Each of its times begins one run, wherever an engine on the store has been
   * started and has what the request names. @throws `schedule_invalid`, `name_invalid`; `value_conflict`: it was changed at the same time.
   */
  putSchedule(schedule: Schedule): Promise<ScheduleState>;
  /** The schedules of the store, by name. */
  schedules(): Promise<ScheduleState[]>;
  /** Lets a schedule rest, or with `{ paused: false }` go on. Times at which it rested are not made up for. @throws `schedule_unknown` */
  pauseSchedule(name: string, options?: { paused?: boolean }): Promise<ScheduleState>;
  /** Takes a schedule out of the store. Whether there was one. Its runs stay. */
  deleteSchedule(name: string): Promise<boolean>;
  /** Begins the runs that are due now, and gives their ids. A run that cannot begin is its schedule's `last_error`. */
  fireDue(): Promise<string[]>;

  thread(thread: string): Promise<Record<string, unknown>>;
  threads(filter?: { resource?: string; offset?: number; limit?: number }): Promise<Record<string, unknown>[]>;
  messages(thread: string): Promise<Message[]>;
  deleteThread(thread: string): Promise<boolean>;
  embed(embedder: string, texts: string[]): Promise<number[][]>;

  /** Asks the engine something by name, as every other language can. */
  call(operation: string, params?: Record<string, unknown>): Promise<any>;

  /** Cancels runs that have a reader; leaves detached ones of a durable store for the next `start()`. */
  close(options?: { timeoutMs?: number }): Promise<void>;
  readonly closed: boolean;
  [Symbol.asyncDispose](): Promise<void>;
}

export type Component = Agent<any> | Workflow<any, any> | Step<any, any> | Tool | Provider | BuiltinProvider;

export declare const version: string;

export type { EffectKind };
