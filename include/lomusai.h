/*
 * Lomusai: an embeddable agent engine. This is its C interface.
 *
 * Made by `cargo xtask codegen` from the crate in ffi/. Do not edit.
 *
 * What holds for every function, and is not said again at each:
 *
 * - STATUS. A function that can fail returns a `lomusai_status`: LOMUSAI_OK, an error's kind (LOMUSAI_E_*), or, where its
 *   description says so, LOMUSAI_TIMEOUT, LOMUSAI_END or LOMUSAI_FULL, which are no errors.
 * - ERRORS. `err`, always last, may be NULL. It is set to NULL on success; on failure `*err` is the caller's, to be freed with
 *   `lomusai_error_free`. There is no hidden last error. The function returns what `lomusai_error_status` of it says.
 * - NULL. A NULL that must not be there is the error `argument_invalid`, not a crash. Functions that free take NULL.
 * - TEXT is UTF-8, else `utf8_invalid`. Names are NUL-terminated; payloads are pointer and length, and need no NUL. Text that comes
 *   out as `char **` is NUL-terminated, the caller's, and freed with `lomusai_string_free`; the place is set to NULL on failure.
 * - HANDLES are opaque. A handle is valid from the function that gave it to the one that frees it.
 * - USERDATA that is passed with a drop function belongs to the engine from then on, even when the call fails; the drop function is
 *   called exactly once. A NULL drop function frees nothing.
 * - CALLBACKS return normally. A C++ exception, longjmp or pthread_exit that would leave one through the engine ends the process.
 * - THREADS. "Thread-safe" means: on any thread, at the same time as other calls on the same handle. Functions that free are not
 *   called beside others that use the handle they free.
 * - FORK. Handles belong to the process that made them. In a forked child, functions say `engine_forked` and freeing only forgets.
 * - OUTPUT. The library prints nothing; a panic inside, which would be a defect, comes back as LOMUSAI_E_INTERNAL, and Rust's panic
 *   hook reports it on stderr.
 * - Numbers named here never change; new ones are added. Structs grow at their end only and begin with their size.
 *
 * Needs C11 or C++17.
 */

#ifndef LOMUSAI_H
#define LOMUSAI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// It worked.
#define LOMUSAI_OK 0

// Nothing came within the time given. Not an error.
#define LOMUSAI_TIMEOUT 100

// There will be no more. Not an error.
#define LOMUSAI_END 101

// There is no room now; nothing was taken. Not an error.
#define LOMUSAI_FULL 102

// The version of layouts and meanings that this header describes. Compare with `lomusai_abi_version()`.
#define LOMUSAI_ABI_VERSION 1

// As a timeout: wait as long as it takes.
#define LOMUSAI_FOREVER 4294967295

// Flag of a registration: the callback runs on a thread of the engine's host pool, where it may block. The default.
#define LOMUSAI_POOL 0

// Flag of a registration: the callback runs on the thread that drives the run. It is faster, must return at once, and must not
// call functions of this library that wait.
#define LOMUSAI_INLINE 1

// Level of a log line: for tracing.
#define LOMUSAI_LOG_DEBUG 0

// Level of a log line: for information.
#define LOMUSAI_LOG_INFO 1

// Level of a log line: something looks wrong.
#define LOMUSAI_LOG_WARN 2

// Level of a log line: something is wrong.
#define LOMUSAI_LOG_ERROR 3

// The request can never succeed as written. Fix what the message names; do not retry.
#define LOMUSAI_E_INVALID 1

// The thing named does not exist here. Register or create it, or correct the name.
#define LOMUSAI_E_NOT_FOUND 2

// The state does not allow it: it exists already, is busy, or was done before.
#define LOMUSAI_E_CONFLICT 3

// Credentials are missing or not accepted, or a rule said no.
#define LOMUSAI_E_DENIED 4

// The other side asked to slow down. Retry after `retry_after_ms`.
#define LOMUSAI_E_RATE_LIMITED 5

// The other side could not be reached or failed. Trying again may help.
#define LOMUSAI_E_UNAVAILABLE 6

// It took longer than the limit named in the message.
#define LOMUSAI_E_TIMEOUT 7

// The run was told to stop.
#define LOMUSAI_E_CANCELLED 8

// A limit on size, depth or count was crossed.
#define LOMUSAI_E_LIMIT 9

// The store refused or lost access. The message names the file and what to do.
#define LOMUSAI_E_STORAGE 10

// A tool failed. The model is told; the host sees it where it ends the run.
#define LOMUSAI_E_TOOL 11

// A model provider answered with an error or with nonsense.
#define LOMUSAI_E_PROVIDER 12

// A function of the host failed or broke the contract of its callback.
#define LOMUSAI_E_HOST 13

// The engine or handle is closed.
#define LOMUSAI_E_CLOSED 14

// A defect of the engine. Please report it.
#define LOMUSAI_E_INTERNAL 15

// What a call is answered by. Counted: a callback OWNS one reference to the handle it is given and gives it back with
// `lomusai_answer_free`, exactly once, before it returns or at any time later, on any thread. Answering never frees.
// When the last reference goes and nothing was answered, the engine takes that for an error of the callback.
//
// Thread-safe: any thread that holds a reference may use it, at the same time as others.
typedef struct lomusai_answer lomusai_answer;

// An engine: components, a store, and the threads that drive runs. Thread-safe. Belongs to the process that opened it: in a
// child after `fork`, every function says `engine_forked`.
typedef struct lomusai_engine lomusai_engine;

// What went wrong. Owned by the caller, freed with `lomusai_error_free`; immutable, so any thread may read it.
typedef struct lomusai_error lomusai_error;

// Reads a run beside its reader. Thread-safe; two threads that read share the events between them.
typedef struct lomusai_observer lomusai_observer;

// A run that this process reads. Thread-safe; two threads that read share the events between them.
typedef struct lomusai_run lomusai_run;

// How a call went: `LOMUSAI_OK`, one of `LOMUSAI_TIMEOUT`, `LOMUSAI_END` and `LOMUSAI_FULL` where the function says so, or the
// kind of an error (`LOMUSAI_E_*`). New kinds may be added: treat one you do not know as `LOMUSAI_E_INTERNAL`.
typedef uint32_t lomusai_status;

// Told once that an answer is not wanted any more. Runs on a thread of the engine and must return soon.
typedef void (*lomusai_cancel_fn)(void *userdata);

// Frees what `userdata` of a registration or subscription points to. Called exactly once, on any thread, after the last use of
// `userdata`; also when the call that took it FAILED, before that call returns.
typedef void (*lomusai_drop_fn)(void *userdata);

// Text that a callback is given: UTF-8, not NUL-terminated, borrowed for as long as the callback's description says.
typedef struct lomusai_str {
  // Never NULL, even when `len` is 0.
  const char *ptr;
  // In bytes.
  size_t len;
} lomusai_str;

// Takes a line of the engine's log. `level` is one of `LOMUSAI_LOG_*`, with more to come. The texts are borrowed for the call.
// Called on any thread, by several at once; must return soon.
typedef void (*lomusai_log_fn)(void *userdata, uint32_t level, struct lomusai_str target, struct lomusai_str message);

// Options of an engine. Set all of it to zero, then `struct_size` to `sizeof(lomusai_engine_options)`, then what you want.
typedef struct lomusai_engine_options {
  // `sizeof(lomusai_engine_options)`.
  size_t struct_size;
  // The store's file, NUL-terminated; NULL keeps runs in memory.
  const char *path;
  // Further settings as a JSON object, NUL-terminated; NULL for none: `sync` ("normal", "full"), `busy_ms`, `callbacks_max`,
  // `keep_finished`, `threads`, `reader_events`, `lease_ms`, `recoveries_max`, `close_ms`, `providers`,
  // `models`, `budgets`, `provider_limits`, `cassette`, `retention`, `compact_after_ms`.
  const char *config_json;
  // Takes the engine's log; NULL for none. The library itself prints nothing.
  lomusai_log_fn log;
  // Passed to `log`. Passes to the engine, also when opening fails.
  void *log_userdata;
  // Frees `log_userdata`; may be NULL.
  lomusai_drop_fn log_drop;
} lomusai_engine_options;

// A tool, a step, a function, a provider or an embedder of the host. `input` is what is asked, as JSON: a tool's arguments as the
// model wrote them, a step's input, a function's question, a provider's model request, an embedder's `{texts}`. It stays valid until the last reference
// to `answer` is freed. `answer` is the callee's to free, see `lomusai_answer`.
//
// The callback must return normally: a C++ exception, `longjmp` or `pthread_exit` through the engine's frames ends the process.
typedef void (*lomusai_call_fn)(void *userdata, struct lomusai_str input, struct lomusai_answer *answer);

// Takes an event of a run, as JSON, borrowed for the call. Called on a thread of the engine's host pool, by one thread at a time,
// in order. May block: the run waits for it. May call any function of this library.
typedef void (*lomusai_event_fn)(void *userdata, struct lomusai_str event);

// Told once that a run ended or was suspended, after its last event. `result` is what `lomusai_run_result` gives, `error` is NULL;
// or `result` is empty and `error` says why the run could not be driven on. Both are borrowed for the call. Then `userdata` is
// dropped.
typedef void (*lomusai_done_fn)(void *userdata, struct lomusai_str result, const struct lomusai_error *error);

// How a run is read. Set all of it to zero, then `struct_size` to `sizeof(lomusai_run_options)`, then what you want.
typedef struct lomusai_run_options {
  // `sizeof(lomusai_run_options)`.
  size_t struct_size;
  // A pointer of yours that the run's callbacks find again with `lomusai_answer_slot`; may be NULL.
  void *slot;
  // Frees `slot` when nothing of the run needs it any more; may be NULL. Also called when starting fails.
  lomusai_drop_fn slot_drop;
  // Takes the run's events; NULL drops them where `on_done` is set.
  lomusai_event_fn on_event;
  // Told when the run is over.
  lomusai_done_fn on_done;
  // Passed to `on_event` and `on_done`. Passes to the engine, also when starting fails.
  void *userdata;
  // Frees `userdata`; may be NULL.
  lomusai_drop_fn drop;
} lomusai_run_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, for example "0.1.0". Static text, never freed. Thread-safe.
const char *lomusai_version(void);

// The version of layouts and meanings that the library has. A program works with a library of the same number as its
// `LOMUSAI_ABI_VERSION`. Thread-safe.
uint32_t lomusai_abi_version(void);

// Frees text that a function of this library gave as `char **`. NULL is fine. Each text once; thread-safe.
void lomusai_string_free(char *text);

// Answers with JSON: a tool's result, a step's output, a function's reply, an embedder's list of vectors. The handle stays to be freed.
//
// Errors: `json_invalid`, `utf8_invalid` (the call stays open: answer again); `already_answered`; `handle_closed` when nobody waits
// any more; `unsupported` for a provider. Thread-safe.
lomusai_status lomusai_answer_resolve(struct lomusai_answer *answer,
                                      const char *json,
                                      size_t json_len,
                                      struct lomusai_error **err);

// Answers a tool's call in full: `{"output": …, "content": [parts]}` or `{"suspend": payload}`; a step's: `{"output": …}`,
// `{"suspend": payload, "label": "…"}` or `{"bail": result}`, which ends the run as a success, each with `"state": {…}`, values of
// the run's state to set. The handle stays to be freed.
//
// Errors: as `lomusai_answer_resolve`, and `argument_invalid` for another form; `unsupported` for other calls. Thread-safe.
lomusai_status lomusai_answer_reply(struct lomusai_answer *answer,
                                    const char *json,
                                    size_t json_len,
                                    struct lomusai_error **err);

// Suspends the call of a tool or a step until a `resume` command comes; it is then called again with what resumed it, see
// `lomusai_answer_facts`. `payload` tells the person who resumes it what is asked. A tool's spec must say `may_suspend`. The
// handle stays to be freed.
//
// Errors: as `lomusai_answer_reply`. Thread-safe.
lomusai_status lomusai_answer_suspend(struct lomusai_answer *answer,
                                      const char *payload,
                                      size_t payload_len,
                                      struct lomusai_error **err);

// Answers with an error. A tool's is told to the model, a provider's may be retried by the engine, a step's is tried again as its
// `retry` says, but for `step_fatal`. `code` is one of the engine's codes, or NULL for the one that says that a callback failed
// (`tool_failed`, `step_failed`, `function_failed`, `provider_host_failed`). The handle stays to be freed.
//
// Errors: `argument_invalid` for an unknown code (the call stays open); `already_answered`; `handle_closed`. Thread-safe.
lomusai_status lomusai_answer_reject(struct lomusai_answer *answer,
                                     const char *code,
                                     const char *message,
                                     size_t message_len,
                                     struct lomusai_error **err);

// As `lomusai_answer_reject`, with the whole error as JSON: `{code, message, retryable?, retry_after_ms?, details?, host?}`. The
// handle stays to be freed.
//
// Errors: as `lomusai_answer_reject`, and `json_invalid`, `argument_invalid` (the call stays open). Thread-safe.
lomusai_status lomusai_answer_reject_json(struct lomusai_answer *answer,
                                          const char *error,
                                          size_t error_len,
                                          struct lomusai_error **err);

// Gives a piece of a model's answer: a chunk as JSON (`{"type": "text", "text": …}`, `{"type": "tool_call", …}`, …), or a JSON
// string for text. Waits on this thread while the run is slower than its provider.
//
// Errors: `json_invalid`, `argument_invalid` (the call stays open); `already_answered` after the end; `handle_closed` once nobody
// reads on: stop then; `unsupported` for other calls. Thread-safe; chunks of two threads come in the order they were taken.
lomusai_status lomusai_answer_push(struct lomusai_answer *answer,
                                   const char *chunk,
                                   size_t chunk_len,
                                   struct lomusai_error **err);

// As `lomusai_answer_push`, but never waits: `LOMUSAI_FULL` when there is no room now, and the chunk was not taken. Thread-safe.
lomusai_status lomusai_answer_try_push(struct lomusai_answer *answer,
                                       const char *chunk,
                                       size_t chunk_len,
                                       struct lomusai_error **err);

// Ends a provider's stream. Without a `finish` chunk before it, the answer counts as complete. The handle stays to be freed.
//
// Errors: `already_answered`; `handle_closed`; `unsupported` for other calls. Thread-safe.
lomusai_status lomusai_answer_finish(struct lomusai_answer *answer, struct lomusai_error **err);

// Tells the run's readers how far the call is, in JSON of your own. Not kept in the journal.
//
// Errors: `json_invalid`. Thread-safe.
lomusai_status lomusai_answer_progress(struct lomusai_answer *answer,
                                       const char *data,
                                       size_t data_len,
                                       struct lomusai_error **err);

// Tells the run's readers something of this name, in JSON; `durable` keeps it in the journal.
//
// Errors: `json_invalid`. Thread-safe.
lomusai_status lomusai_answer_custom(struct lomusai_answer *answer,
                                     const char *name,
                                     const char *data,
                                     size_t data_len,
                                     bool durable,
                                     struct lomusai_error **err);

// Whether the answer is not wanted any more. `true` for NULL. Cheap; thread-safe.
bool lomusai_answer_is_cancelled(const struct lomusai_answer *answer);

// Has `callback` called once, when the answer is not wanted any more; at once, on this thread, if that is so already. It is not
// called after the last reference to the handle was freed (but may still be at work then). `userdata` passes to the engine, also
// when this fails, see `lomusai_drop_fn`. Thread-safe.
lomusai_status lomusai_answer_on_cancel(struct lomusai_answer *answer,
                                        lomusai_cancel_fn callback,
                                        void *userdata,
                                        lomusai_drop_fn drop,
                                        struct lomusai_error **err);

// Facts about the call, as owned JSON to be freed with `lomusai_string_free`:
// `{run_id, effect_id, idempotency_key, agent, name, attempt, call_id?, deadline_ms?, context?, resume?, state?}`. `agent` is the
// workflow's name in a workflow, `state` the state of its run. Thread-safe.
lomusai_status lomusai_answer_facts(const struct lomusai_answer *answer,
                                    char **json,
                                    struct lomusai_error **err);

// The pointer that the caller of the run attached to it (`slot` of `lomusai_run_options`); NULL where there is none, as after a
// recovery. Thread-safe.
void *lomusai_answer_slot(const struct lomusai_answer *answer);

// One more reference to the handle, to be freed like the first. NULL is fine. Thread-safe.
void lomusai_answer_retain(struct lomusai_answer *answer);

// Gives one reference to the handle back. NULL is fine. Thread-safe.
void lomusai_answer_free(struct lomusai_answer *answer);

// Opens an engine. `options` may be NULL. Runs nothing yet: register components, then call `lomusai_engine_start` where the store
// is a file. `*engine` is the caller's, to be freed with `lomusai_engine_free`; NULL on failure.
//
// Errors: `argument_invalid`, `json_invalid`; the storage codes for the file. Thread-safe.
lomusai_status lomusai_engine_open(const struct lomusai_engine_options *options,
                                   struct lomusai_engine **engine,
                                   struct lomusai_error **err);

// Takes up what an earlier process left unfinished in the store. Call it after registering, once. `*report` (may be NULL) is owned
// JSON, freed with `lomusai_string_free`: `{recovered, blocked, poisoned, elsewhere}`.
//
// Errors: the storage codes, `engine_closed`. Waits for the store; thread-safe.
lomusai_status lomusai_engine_start(const struct lomusai_engine *engine,
                                    char **report,
                                    struct lomusai_error **err);

// Closes the engine: new work is refused with `engine_closed`, runs with a reader are cancelled, detached runs of a file are left
// for the next start. Waits at most `timeout_ms` for runs and callbacks (`LOMUSAI_FOREVER`: as long as the settings say). The
// handle stays to be freed. Doing it twice is fine; works from a callback too.
//
// Errors: `close_timeout`, naming the callbacks that did not return: the engine is closed all the same. Thread-safe.
lomusai_status lomusai_engine_close(const struct lomusai_engine *engine,
                                    uint32_t timeout_ms,
                                    struct lomusai_error **err);

// Frees the handle; closes the engine first, without waiting for callbacks, where that was not done. NULL is fine. Once, and not
// beside other calls that use this handle. Runs, observers and answers that are still out stay valid, say `engine_closed`, and are
// freed by their own functions, before or after.
void lomusai_engine_free(struct lomusai_engine *engine);

// Whether the engine is closed. `true` for NULL. Thread-safe.
bool lomusai_engine_is_closed(const struct lomusai_engine *engine);

// Has the engine's log go to `log` from now on; NULL for nowhere. `userdata` passes to the engine, also when this fails.
//
// Errors: `engine_forked`. Thread-safe.
lomusai_status lomusai_engine_set_log(const struct lomusai_engine *engine,
                                      lomusai_log_fn log,
                                      void *userdata,
                                      lomusai_drop_fn drop,
                                      struct lomusai_error **err);

// Registers a tool: its spec as JSON, and the callback that carries it out. `flags` is `LOMUSAI_POOL` or `LOMUSAI_INLINE`.
// `userdata` passes to the engine, also when this fails.
//
// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `schema_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_tool(const struct lomusai_engine *engine,
                                     const char *spec,
                                     size_t spec_len,
                                     uint32_t flags,
                                     lomusai_call_fn callback,
                                     void *userdata,
                                     lomusai_drop_fn drop,
                                     struct lomusai_error **err);

// Registers a function that specs can name: a processor, a hook, an approval rule, a stop condition, instructions. `flags` and
// `userdata` as with `lomusai_register_tool`.
//
// Errors: `name_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_function(const struct lomusai_engine *engine,
                                         const char *name,
                                         uint32_t flags,
                                         lomusai_call_fn callback,
                                         void *userdata,
                                         lomusai_drop_fn drop,
                                         struct lomusai_error **err);

// Registers a model provider of the host: asked with a model request, it answers with `lomusai_answer_push` and
// `lomusai_answer_finish`. `flags` and `userdata` as with `lomusai_register_tool`.
//
// Errors: `name_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_provider(const struct lomusai_engine *engine,
                                         const char *name,
                                         uint32_t flags,
                                         lomusai_call_fn callback,
                                         void *userdata,
                                         lomusai_drop_fn drop,
                                         struct lomusai_error **err);

// Registers a provider that comes with the engine: `{"type": "scripted", "script": …}` or
// `{"type": "compatible", "base_url": …, …}`.
//
// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_builtin_provider(const struct lomusai_engine *engine,
                                                 const char *name,
                                                 const char *config,
                                                 size_t config_len,
                                                 struct lomusai_error **err);

// Registers an embedder of the host: asked with `{texts}`, it answers with one vector of `dimensions` numbers per text. `flags`
// and `userdata` as with `lomusai_register_tool`.
//
// Errors: `name_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_embedder(const struct lomusai_engine *engine,
                                         const char *name,
                                         size_t dimensions,
                                         uint32_t flags,
                                         lomusai_call_fn callback,
                                         void *userdata,
                                         lomusai_drop_fn drop,
                                         struct lomusai_error **err);

// Registers an agent: its spec as JSON.
//
// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `spec_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_agent(const struct lomusai_engine *engine,
                                      const char *spec,
                                      size_t spec_len,
                                      struct lomusai_error **err);

// Registers a workflow: its spec as JSON. The steps, tools, agents, workflows and functions that it names may be registered later.
//
// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `name_taken`, `step_duplicate`, `step_reference_unknown`,
// `step_cycle`, `expression_invalid`, `schema_invalid`, `spec_invalid`. Thread-safe.
lomusai_status lomusai_register_workflow(const struct lomusai_engine *engine,
                                         const char *spec,
                                         size_t spec_len,
                                         struct lomusai_error **err);

// Registers a function that steps of workflows call by this name: asked with the step's input, it answers with what the step gives
// (`lomusai_answer_resolve`), suspends (`lomusai_answer_suspend`), or says more than that (`lomusai_answer_reply`). It may be called
// more than once for one step of a run, with the same idempotency key: see `lomusai_answer_facts`. `flags` and `userdata` as with
// `lomusai_register_tool`. Conditions that are functions are registered with `lomusai_register_function`.
//
// Errors: `name_invalid`, `name_taken`. Thread-safe.
lomusai_status lomusai_register_step(const struct lomusai_engine *engine,
                                     const char *name,
                                     uint32_t flags,
                                     lomusai_call_fn callback,
                                     void *userdata,
                                     lomusai_drop_fn drop,
                                     struct lomusai_error **err);

// Takes a component away; `kind` is "agent", "tool", "provider", "function", "embedder", "workflow" or "step". `*existed` (may be NULL) says whether
// there was one. Calls that are at work end as they would have, and a run that is under way may keep a step's function until it asks for its
// next step, or ends.
//
// Errors: `argument_invalid` for another kind. Thread-safe.
lomusai_status lomusai_unregister(const struct lomusai_engine *engine,
                                  const char *kind,
                                  const char *name,
                                  bool *existed,
                                  struct lomusai_error **err);

// Asks the engine something, by the operation's name and its parameters as JSON (NULL and 0 for none). `*json` is the owned
// answer, freed with `lomusai_string_free`; it may be NULL when the answer does not matter. Waits on this thread; works from
// callbacks on the pool.
//
// Operations: `start`, `command {run_id, command}`, `draft_workflow {name, chain, ...}` (the spec of a chain), `run {run_id}`, `runs {status?, agent?, thread?, parent?, limit?, offset?}`,
// `pending`, `result {run_id}`, `export {run_id}`, `digest {run_id}`, `digest_of {events}`, `delete_run {run_id}`, `thread {thread}`,
// `threads {resource?, offset?, limit?}`, `messages {thread}`, `delete_thread {thread}`, `embed {embedder, texts}`,
// `models` (what is known and configured, with what each can do and costs), `budgets` (the shared ones, and what was spent).
//
// Errors: `argument_invalid` for an unknown operation or parameter; what the operation says; `engine_closed`. Thread-safe.
lomusai_status lomusai_engine_call(const struct lomusai_engine *engine,
                                   const char *operation,
                                   const char *params,
                                   size_t params_len,
                                   char **json,
                                   struct lomusai_error **err);

// Tells a run something, as JSON: `{"type": "approve"}`, `decline`, `resume`, `tool_result`, `cancel`; to a run of a workflow also
// `{"type": "resume", "label" or "effect_id", "data"}`, `{"type": "signal", "name", "data"}` and `{"type": "retry"}`, which takes up
// one that failed. Returns once it is recorded. The run goes on without a reader here; `lomusai_run_resume` reads on.
//
// Errors: `json_invalid`, `argument_invalid`, `run_unknown`, `run_finished`, `run_not_failed`, `effect_unknown`, `resume_invalid`,
// `workflow_changed`. Thread-safe.
lomusai_status lomusai_engine_command(const struct lomusai_engine *engine,
                                      const char *run_id,
                                      const char *command,
                                      size_t command_len,
                                      struct lomusai_error **err);

// A run's journal as a JSON array of events. `*json` is owned, freed with `lomusai_string_free`.
//
// Errors: `run_unknown`; the storage codes. Thread-safe.
lomusai_status lomusai_engine_export_journal(const struct lomusai_engine *engine,
                                             const char *run_id,
                                             char **json,
                                             struct lomusai_error **err);

// The digest of a run's journal: equal in every language and process where the run went alike. `*digest` is owned text, freed
// with `lomusai_string_free`.
//
// Errors: `run_unknown`; the storage codes. Thread-safe.
lomusai_status lomusai_engine_digest(const struct lomusai_engine *engine,
                                     const char *run_id,
                                     char **digest,
                                     struct lomusai_error **err);

// Runs as a JSON array, newest first. `filter` is a JSON object: `{status?, agent?, thread?, parent?, limit?, offset?}`, NULL and 0
// for all. `*json` is owned, freed with `lomusai_string_free`.
//
// Errors: `json_invalid`, `argument_invalid`; the storage codes. Thread-safe.
lomusai_status lomusai_engine_list_runs(const struct lomusai_engine *engine,
                                        const char *filter,
                                        size_t filter_len,
                                        char **json,
                                        struct lomusai_error **err);

// The suspended runs, with what each waits for, as a JSON array. `*json` is owned, freed with `lomusai_string_free`.
//
// Errors: the storage codes. Thread-safe.
lomusai_status lomusai_engine_pending(const struct lomusai_engine *engine, char **json, struct lomusai_error **err);

// Deletes a run and its journal. `*existed` (may be NULL) says whether there was one.
//
// Errors: `run_active` while it is at work; the storage codes. Thread-safe.
lomusai_status lomusai_engine_delete_run(const struct lomusai_engine *engine,
                                         const char *run_id,
                                         bool *existed,
                                         struct lomusai_error **err);

// The error's kind, the same number that the failed function returned. `LOMUSAI_OK` for NULL. Thread-safe.
lomusai_status lomusai_error_status(const struct lomusai_error *error);

// The error's stable code, for example "tool_unknown", the same in every language. Borrowed until the error is freed; "" for
// NULL. Thread-safe.
const char *lomusai_error_code(const struct lomusai_error *error);

// What went wrong, in words: names the thing and the way out. May change between versions. Borrowed until the error is freed; ""
// for NULL. Thread-safe.
const char *lomusai_error_message(const struct lomusai_error *error);

// Whether the same call may succeed later. `false` for NULL. Thread-safe.
bool lomusai_error_retryable(const struct lomusai_error *error);

// In how many milliseconds to try again, where the other side said so, else -1. Thread-safe.
int64_t lomusai_error_retry_after_ms(const struct lomusai_error *error);

// The whole error as JSON: `{kind, code, message, retryable?, retry_after_ms?, details?, host?}`. Borrowed until the error is
// freed; "null" for NULL. Thread-safe.
const char *lomusai_error_json(const struct lomusai_error *error);

// Frees an error. NULL is fine. Each error once, when no other thread reads it.
void lomusai_error_free(struct lomusai_error *error);

// Starts a run: a request as JSON, `{agent, input, history?, thread?, resource?, run_id?, context?, transient?, detached?, on_busy?,
// options?}`, or of a workflow `{workflow, input?, run_id?, context?, transient?, state?, detached?}`. `options` may be NULL. Does not wait: what cannot be told at once is the run's result.
//
// Without callbacks, read the run with `lomusai_run_next` or wait with `lomusai_run_result`. With `on_event` or `on_done`, the
// callbacks are the run's reader, and `run` may be NULL. `*run` is the caller's, to be freed with `lomusai_run_free`; NULL on
// failure, and then no callback is called.
//
// Errors: `json_invalid`, `argument_invalid`, `agent_unknown`, `workflow_unknown`, `input_empty` and the like, `engine_closed`.
// Thread-safe.
lomusai_status lomusai_run_start(const struct lomusai_engine *engine,
                                 const char *request,
                                 size_t request_len,
                                 const struct lomusai_run_options *options,
                                 struct lomusai_run **run,
                                 struct lomusai_error **err);

// Sends a command to a suspended run, or `{"type": "retry"}` to one of a workflow that failed, as JSON, and reads on from there. Returns once the command is recorded. `options` and
// `*run` as with `lomusai_run_start`.
//
// Errors: `run_unknown`, `run_finished`, `run_active`, `run_blocked`, `effect_unknown`, `resume_invalid`, `json_invalid`,
// `argument_invalid`, `engine_closed`. Thread-safe.
lomusai_status lomusai_run_resume(const struct lomusai_engine *engine,
                                  const char *run_id,
                                  const char *command,
                                  size_t command_len,
                                  const struct lomusai_run_options *options,
                                  struct lomusai_run **run,
                                  struct lomusai_error **err);

// Waits up to `timeout_ms` (0 = poll) for the next event. `LOMUSAI_OK`: `*event` is owned JSON, freed with `lomusai_string_free`.
// `LOMUSAI_TIMEOUT`: nothing yet. `LOMUSAI_END`: the run has ended or is suspended, see `lomusai_run_result`.
//
// Errors: `handle_closed` after `lomusai_run_close`, `engine_forked`. Thread-safe; works from callbacks on the pool.
lomusai_status lomusai_run_next(const struct lomusai_run *run,
                                uint32_t timeout_ms,
                                char **event,
                                struct lomusai_error **err);

// Waits up to `timeout_ms` for what the run came to, or where it waits. `LOMUSAI_OK`: `*json` (may be NULL) is owned, freed with
// `lomusai_string_free`: `{run_id, status, text, output?, error?, usage, messages, history, pending}`, what a workflow came to as
// `output.object`; a run that failed is a
// result with that status. `LOMUSAI_TIMEOUT`: not yet. A run waits for its reader: read or discard its events first.
//
// Errors: why the run could not be driven on (storage, `engine_closed`); `handle_closed`, `engine_forked`. Thread-safe; works from
// callbacks on the pool.
lomusai_status lomusai_run_result(const struct lomusai_run *run,
                                  uint32_t timeout_ms,
                                  char **json,
                                  struct lomusai_error **err);

// The run's id. Borrowed until the handle is freed; "" for NULL. Thread-safe.
const char *lomusai_run_id(const struct lomusai_run *run);

// Asks for the run to be cancelled: nothing new starts, results within `grace_ms` are still recorded. `reason` may be NULL. Does not
// wait.
//
// Errors: `handle_closed`, `engine_forked`. Thread-safe.
lomusai_status lomusai_run_cancel(const struct lomusai_run *run,
                                  uint64_t grace_ms,
                                  const char *reason,
                                  struct lomusai_error **err);

// Drops events that were not read and those to come; the run no longer waits for a reader. NULL is fine. Thread-safe.
void lomusai_run_discard_events(const struct lomusai_run *run);

// Lets go of the run: it is cancelled, unless its request said `detached` or it is over. The handle stays to be freed. NULL is
// fine, twice is fine. Thread-safe.
void lomusai_run_close(const struct lomusai_run *run);

// Frees the handle. A run that is read through it is closed, see `lomusai_run_close`; one that callbacks read goes on. NULL is
// fine. Once, and not beside other calls that use this handle; before or after the engine is freed.
void lomusai_run_free(struct lomusai_run *run);

// Reads a run's events after `after_seq` (0 = all) beside its reader: first what is recorded, then what comes. An observer that is
// slow misses transient events and is told so (`lagged`); the run never waits for it. `*observer` is the caller's, to be freed with
// `lomusai_observer_free`.
//
// Errors: `run_unknown`, `engine_closed`. Thread-safe.
lomusai_status lomusai_observe(const struct lomusai_engine *engine,
                               const char *run_id,
                               uint64_t after_seq,
                               struct lomusai_observer **observer,
                               struct lomusai_error **err);

// As `lomusai_run_next`, for an observer.
//
// Errors: `engine_closed`, `engine_forked`. Thread-safe.
lomusai_status lomusai_observer_next(const struct lomusai_observer *observer,
                                     uint32_t timeout_ms,
                                     char **event,
                                     struct lomusai_error **err);

// Frees an observer. NULL is fine. Once, and not beside other calls that use this handle; the run does not notice.
void lomusai_observer_free(struct lomusai_observer *observer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LOMUSAI_H */
