/* Runs the conformance vectors through the C ABI; tests/conformance/README.md says how. The digest is the engine's own. */
#include <lomusai.h>

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PARSE (JSON_DECODE_ANY | JSON_ALLOW_NUL)
#define WRITE (JSON_COMPACT | JSON_ENCODE_ANY)

static char faults[16384];

static void fault(const char *format, ...) {
  size_t used = strlen(faults);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(faults + used, sizeof faults - used, format, arguments);
  va_end(arguments);
  used = strlen(faults);
  snprintf(faults + used, sizeof faults - used, "\n");
}

static json_t *parse(const char *text, size_t len) {
  json_error_t error;
  json_t *value = json_loadb(text, len, PARSE, &error);
  /* Integers beyond 64 bits: near enough for comparing. */
  if (value == NULL) value = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
  return value;
}

static char *dump(json_t *value) { return value ? json_dumps(value, WRITE) : strdup("null"); }

/* --- Matching ------------------------------------------------------------------------------------------------------ */

static bool matches(json_t *expected, json_t *found) {
  if (expected == NULL || json_is_null(expected)) return found == NULL || json_is_null(found);
  if (found == NULL) return false;
  if (json_is_object(expected)) {
    const char *key;
    json_t *value;
    if (!json_is_object(found)) return false;
    json_object_foreach(expected, key, value) {
      if (!matches(value, json_object_get(found, key))) return false;
    }
    return true;
  }
  if (json_is_array(expected)) {
    if (!json_is_array(found) || json_array_size(expected) != json_array_size(found)) return false;
    for (size_t i = 0; i < json_array_size(expected); i++)
      if (!matches(json_array_get(expected, i), json_array_get(found, i))) return false;
    return true;
  }
  if (json_is_number(expected) && json_is_number(found)) return json_number_value(expected) == json_number_value(found);
  return json_equal(expected, found);
}

static void compare(json_t *expected, json_t *found, const char *what) {
  if (expected == NULL || matches(expected, found)) return;
  char *a = dump(expected), *b = dump(found);
  fault("%s: expected %.1500s, was %.1500s", what, a, b);
  free(a);
  free(b);
}

static json_t *at(json_t *value, const char *pointer) {
  while (value != NULL && *pointer == '/') {
    char token[256];
    size_t n = 0;
    for (pointer++; *pointer != 0 && *pointer != '/' && n + 1 < sizeof token; pointer++) {
      char c = *pointer;
      if (c == '~') c = *++pointer == '1' ? '/' : '~';
      token[n++] = c;
    }
    token[n] = 0;
    value = json_is_array(value) ? json_array_get(value, (size_t)atol(token)) : json_object_get(value, token);
  }
  return value;
}

/* --- Behaviours ---------------------------------------------------------------------------------------------------- */

struct behaviour {
  json_t *does;
  enum { TOOL, FUNCTION, STEP } of;
};

static void drop_behaviour(void *userdata) {
  struct behaviour *behaviour = userdata;
  free(behaviour);
}

static json_t *chosen(json_t *does, json_t *input, json_t *resume, size_t attempt) {
  json_t *by = json_object_get(does, "by"), *attempts = json_object_get(does, "attempts");
  if (attempts != NULL) {
    size_t count = json_array_size(attempts);
    return chosen(json_array_get(attempts, attempt < count ? attempt - 1 : count - 1), input, resume, attempt);
  }
  if (by != NULL) {
    json_t *found = at(input, json_string_value(by));
    char *key = json_is_string(found) ? strdup(json_string_value(found)) : dump(found);
    json_t *next = json_object_get(json_object_get(does, "is"), key);
    free(key);
    if (next == NULL) next = json_object_get(does, "else");
    return next == NULL ? NULL : chosen(next, input, resume, attempt);
  }
  if (json_object_get(does, "suspends") != NULL && resume != NULL) {
    json_t *until = json_object_get(does, "until");
    if (until == NULL || matches(until, resume)) {
      static json_t *resumes;
      if (resumes == NULL) resumes = json_pack("{s:b}", "resume", 1);
      json_t *then = json_object_get(does, "then");
      return then == NULL ? resumes : chosen(then, input, resume, attempt);
    }
  }
  return does;
}

static void cancelled(void *userdata) { lomusai_answer_free(userdata); }

/* Answers in full: a field of a reply, and one beside it. */
static void answer_reply(lomusai_answer *answer, const char *field, const char *text, const char *beside, json_t *value) {
  char *more = dump(value);
  size_t size = strlen(text) + strlen(more) + 64;
  char *reply = malloc(size);
  int len = snprintf(reply, size, "{\"%s\":%s,\"%s\":%s}", field, text, beside, more);
  lomusai_answer_reply(answer, reply, (size_t)len, NULL);
  free(reply);
  free(more);
}

static void answer_text(struct behaviour *behaviour, json_t *does, lomusai_answer *answer, const char *text) {
  json_t *content = json_object_get(does, "content"), *sets = json_object_get(does, "sets");
  if (behaviour->of == TOOL && content != NULL) {
    answer_reply(answer, "output", text, "content", content);
  } else if (behaviour->of == STEP && sets != NULL) {
    answer_reply(answer, "output", text, "state", sets);
  } else {
    lomusai_answer_resolve(answer, text, strlen(text), NULL);
  }
}

static void call(void *userdata, lomusai_str text, lomusai_answer *answer) {
  struct behaviour *behaviour = userdata;
  char *facts_text = NULL;
  lomusai_answer_facts(answer, &facts_text, NULL);
  json_t *facts = parse(facts_text, strlen(facts_text));
  lomusai_string_free(facts_text);
  json_t *input = parse(text.ptr, text.len);
  json_t *resume = json_object_get(facts, "resume");
  json_t *does = chosen(behaviour->does, input, resume, (size_t)json_integer_value(json_object_get(facts, "attempt")));
  json_t *item, *value;
  size_t i;
  json_array_foreach(json_object_get(does, "progress"), i, item) {
    char *data = dump(item);
    lomusai_answer_progress(answer, data, strlen(data), NULL);
    free(data);
  }
  json_array_foreach(json_object_get(does, "custom"), i, item) {
    char *data = dump(json_object_get(item, "data"));
    lomusai_answer_custom(answer, json_string_value(json_object_get(item, "name")), data, strlen(data), true, NULL);
    free(data);
  }
  char *reply = NULL;
  if ((value = json_object_get(does, "echo")) != NULL) {
    reply = dump(at(input, json_string_value(value)));
  } else if (json_object_get(does, "adds") != NULL) {
    reply = malloc(32);
    snprintf(reply, 32, "%lld",
             (long long)(json_integer_value(json_object_get(input, "a")) + json_integer_value(json_object_get(input, "b"))));
  } else if (json_object_get(does, "upper") != NULL) {
    const char *of = json_string_value(json_object_get(input, "text"));
    char *upper = strdup(of ? of : "");
    for (char *c = upper; *c; c++)
      if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 32);
    json_t *object = json_pack("{s:s}", "text", upper);
    reply = dump(object);
    json_decref(object);
    free(upper);
  } else if ((value = json_object_get(does, "integer")) != NULL) {
    /* Where neither int64_t nor uint64_t holds it, the text. */
    const char *digits = json_string_value(value);
    errno = 0;
    if (*digits == '-')
      (void)strtoll(digits, NULL, 10);
    else
      (void)strtoull(digits, NULL, 10);
    reply = errno == 0 ? strdup(digits) : dump(value);
  } else if ((value = json_object_get(does, "fails")) != NULL) {
    const char *message = json_string_value(value);
    lomusai_answer_reject(answer, NULL, message, strlen(message), NULL);
  } else if ((value = json_object_get(does, "fatal")) != NULL) {
    const char *message = json_string_value(value);
    lomusai_answer_reject(answer, "step_fatal", message, strlen(message), NULL);
  } else if ((value = json_object_get(does, "bails")) != NULL) {
    char *result = dump(value);
    json_t *none = json_object();
    answer_reply(answer, "bail", result, "state", json_object_get(does, "sets") ? json_object_get(does, "sets") : none);
    json_decref(none);
    free(result);
  } else if ((value = json_object_get(does, "state")) != NULL) {
    reply = dump(json_object_get(json_object_get(facts, "state"), json_string_value(value)));
  } else if ((value = json_object_get(does, "context")) != NULL) {
    reply = dump(json_object_get(json_object_get(facts, "context"), json_string_value(value)));
  } else if (json_object_get(does, "attempt") != NULL) {
    reply = dump(json_object_get(facts, "attempt"));
  } else if (json_object_get(does, "resume") != NULL) {
    reply = dump(resume);
  } else if (json_object_get(does, "hangs") != NULL) {
    /* Holds the handle until it is told that nobody waits. */
    lomusai_answer_retain(answer);
    lomusai_answer_on_cancel(answer, cancelled, answer, NULL, NULL);
  } else if ((value = json_object_get(does, "suspends")) != NULL) {
    char *payload = dump(value);
    json_t *label = json_object_get(does, "label");
    if (label != NULL)
      answer_reply(answer, "suspend", payload, "label", label);
    else
      lomusai_answer_suspend(answer, payload, strlen(payload), NULL);
    free(payload);
  } else {
    reply = dump(json_object_get(does, "returns"));
  }
  if (reply != NULL) answer_text(behaviour, does, answer, reply);
  free(reply);
  json_decref(input);
  json_decref(facts);
  lomusai_answer_free(answer);
}

/* --- Canonical order ----------------------------------------------------------------------------------------------- */

/* Whether the event is one of a call: its effect's id begins with two numbers, the step and the call's place. */
static bool of_call(json_t *event, long *step, long *place) {
  static const char *const types[] = {"effect_started", "effect_completed", "effect_failed", "effect_suspended", "effect_skipped", "custom"};
  const char *type = json_string_value(json_object_get(event, "type"));
  const char *id = json_string_value(json_object_get(event, "effect_id"));
  bool effect = false;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) effect |= type != NULL && strcmp(type, types[i]) == 0;
  if (!effect || id == NULL) return false;
  size_t first = strspn(id, "0123456789");
  if (first == 0 || id[first] != '.') return false;
  size_t second = strspn(id + first + 1, "0123456789");
  if (second == 0 || (id[first + 1 + second] != 0 && id[first + 1 + second] != '.')) return false;
  *step = atol(id);
  *place = atol(id + first + 1);
  return true;
}

/* The order of two effects of a workflow: token by token, a number before a word, what ends first first. */
static int effect_order(const char *a, const char *b) {
  for (;;) {
    size_t m = strcspn(a, "."), n = strcspn(b, "."), least = m < n ? m : n;
    bool p = m > 0 && strspn(a, "0123456789") == m, q = n > 0 && strspn(b, "0123456789") == n;
    int order = p && q ? (atol(a) > atol(b)) - (atol(a) < atol(b)) : p != q ? (p ? -1 : 1) : strncmp(a, b, least);
    if (order == 0 && !p && m != n) order = m < n ? -1 : 1;
    if (order != 0) return order;
    if (a[m] == 0 || b[n] == 0) return (a[m] != 0) - (b[n] != 0);
    a += m + 1;
    b += n + 1;
  }
}

/* The effect of a workflow's event; NULL where it is none. */
static const char *effect_of(json_t *event) {
  const char *type = json_string_value(json_object_get(event, "type"));
  return type != NULL && strcmp(type, "signal_received") == 0 ? NULL : json_string_value(json_object_get(event, "effect_id"));
}

/* The durable events, those of parallel calls in the order of the calls: insertion sort, for it is stable. */
static json_t *canonical(json_t *journal) {
  json_t *events = json_array(), *event, *spec = json_object_get(json_array_get(journal, 0), "spec");
  const char *kind = json_string_value(json_object_get(spec, "kind"));
  bool workflow = kind != NULL && strcmp(kind, "workflow") == 0;
  size_t i;
  json_array_foreach(journal, i, event) {
    if (json_integer_value(json_object_get(event, "sub")) != 0) continue;
    size_t to = json_array_size(events);
    long step, place, other_step, other_place;
    const char *effect = effect_of(event), *other;
    if (workflow) {
      while (effect != NULL && to > 0 && (other = effect_of(json_array_get(events, to - 1))) != NULL && effect_order(other, effect) > 0)
        to--;
    } else if (of_call(event, &step, &place)) {
      while (to > 0 && of_call(json_array_get(events, to - 1), &other_step, &other_place) && other_step == step && other_place > place)
        to--;
    }
    json_array_insert(events, to, event);
  }
  return events;
}

/* Puts an ordinal in the place of an identity. */
static void ordinal(json_t *object, const char *key, json_t *seen, const char *kind) {
  json_t *id = json_object_get(object, key);
  char text[64];
  size_t n = 0;
  if (!json_is_string(id)) return;
  while (n < json_array_size(seen) && !json_equal(json_array_get(seen, n), id)) n++;
  if (n == json_array_size(seen)) json_array_append(seen, id);
  snprintf(text, sizeof text, "%s:%zu", kind, n);
  json_object_set_new(object, key, json_string(text));
}

static json_t *with_ordinals(json_t *journal) {
  json_t *events = json_deep_copy(journal), *runs = json_array(), *threads = json_array(), *event, *reason;
  size_t i, j;
  json_array_foreach(events, i, event) {
    ordinal(event, "run_id", runs, "run");
    ordinal(json_object_get(event, "parent"), "run_id", runs, "run");
    ordinal(json_object_get(event, "forked_from"), "run_id", runs, "run");
    ordinal(event, "child", runs, "run");
    json_array_foreach(json_object_get(event, "reasons"), j, reason) ordinal(reason, "child", runs, "run");
    ordinal(event, "thread", threads, "thread");
  }
  json_decref(runs);
  json_decref(threads);
  return events;
}

static void compare_events(json_t *expected, json_t *journal) {
  json_t *sorted = canonical(journal), *found = with_ordinals(sorted), *item;
  size_t i;
  if (json_array_size(expected) != json_array_size(found))
    fault("events: expected %zu, were %zu", json_array_size(expected), json_array_size(found));
  json_array_foreach(expected, i, item) {
    json_t *event = json_array_get(found, i);
    if (json_is_string(item)) {
      char text[512] = "";
      const char *type = json_string_value(json_object_get(event, "type"));
      const char *id = json_string_value(json_object_get(event, "effect_id"));
      bool named = strchr(json_string_value(item), ' ') != NULL;
      snprintf(text, sizeof text, "%s%s%s", type ? type : "nothing", named ? " " : "", named && id ? id : "");
      if (strcmp(text, json_string_value(item)) != 0) fault("event %zu: expected %s, was %s", i, json_string_value(item), text);
    } else {
      char what[32];
      snprintf(what, sizeof what, "event %zu", i);
      compare(item, event, what);
    }
  }
  json_decref(sorted);
  json_decref(found);
}

/* --- A turn -------------------------------------------------------------------------------------------------------- */

/* Reads to the end of the run's events; cancels at the n-th durable one. Takes the handle. The result is the caller's. */
static json_t *read_run(lomusai_run *run, long *seen, long cancel_at) {
  char *text;
  lomusai_status status;
  lomusai_error *error = NULL;
  while ((status = lomusai_run_next(run, 60000, &text, &error)) == LOMUSAI_OK) {
    json_t *event = parse(text, strlen(text));
    if (json_integer_value(json_object_get(event, "sub")) == 0 && ++*seen == cancel_at) lomusai_run_cancel(run, 0, NULL, NULL);
    json_decref(event);
    lomusai_string_free(text);
  }
  if (status != LOMUSAI_END) fault("reading ended with %u %s", status, lomusai_error_code(error));
  lomusai_error_free(error);
  json_t *result = NULL;
  status = lomusai_run_result(run, 60000, &text, &error);
  if (status == LOMUSAI_OK) {
    result = parse(text, strlen(text));
    lomusai_string_free(text);
  } else {
    fault("the result is %u %s", status, lomusai_error_message(error));
  }
  lomusai_error_free(error);
  lomusai_run_free(run);
  return result;
}

/* Sends a command; `*result` is replaced where the run went on. Gives the code of the refusal, "" for none. */
static const char *send_command(lomusai_engine *engine, const char *id, json_t *item, json_t **result, long *seen, long cancel_at) {
  static char code[128];
  json_t *command = json_object_get(item, "send") ? json_object_get(item, "send") : item;
  const char *to = json_string_value(json_object_get(item, "to"));
  char *text = dump(command);
  lomusai_error *error = NULL;
  json_t *after = NULL;
  if (to != NULL) {
    char child[512], *json = NULL;
    snprintf(child, sizeof child, "%s/%s", id, to);
    if (lomusai_engine_command(engine, child, text, strlen(text), &error) == LOMUSAI_OK) {
      json_t *params = json_pack("{s:s}", "run_id", id);
      char *params_text = dump(params);
      if (lomusai_engine_call(engine, "result", params_text, strlen(params_text), &json, &error) == LOMUSAI_OK)
        after = parse(json, strlen(json));
      lomusai_string_free(json);
      free(params_text);
      json_decref(params);
    }
  } else {
    lomusai_run *run = NULL;
    if (lomusai_run_resume(engine, id, text, strlen(text), NULL, &run, &error) == LOMUSAI_OK)
      after = read_run(run, seen, cancel_at);
  }
  free(text);
  snprintf(code, sizeof code, "%s", lomusai_error_code(error));
  lomusai_error_free(error);
  if (after != NULL) {
    json_decref(*result);
    *result = after;
  }
  return code;
}

static void compare_run(lomusai_engine *engine, json_t *expect, const char *id, json_t *status) {
  lomusai_error *error = NULL;
  char *text = NULL, *digest = NULL;
  if (lomusai_engine_export_journal(engine, id, &text, &error) != LOMUSAI_OK) {
    fault("export of %s: %s", id, lomusai_error_message(error));
    lomusai_error_free(error);
    return;
  }
  json_t *journal = parse(text, strlen(text));
  json_t *last = json_array_get(journal, json_array_size(journal) - 1);
  bool finished = last && strcmp(json_string_value(json_object_get(last, "type")), "run_finished") == 0;
  compare(json_object_get(expect, "status"), status, "status");
  compare(json_object_get(expect, "output"), finished ? json_object_get(last, "output") : NULL, "output");
  json_t *failed = finished ? json_object_get(last, "error") : NULL;
  if (json_object_get(expect, "error")) {
    compare(json_object_get(expect, "error"), failed, "error");
  } else if (json_object_get(expect, "status") && failed) {
    char *shown = dump(failed);
    fault("error: expected none, was %s", shown);
    free(shown);
  }
  if (json_object_get(expect, "events")) compare_events(json_object_get(expect, "events"), journal);
  if (json_object_get(expect, "digest")) {
    if (lomusai_engine_digest(engine, id, &digest, NULL) != LOMUSAI_OK ||
        strcmp(digest, json_string_value(json_object_get(expect, "digest"))) != 0)
      fault("digest: expected %s, was %s", json_string_value(json_object_get(expect, "digest")), digest ? digest : "none");
    lomusai_string_free(digest);
  }
  json_decref(journal);
  lomusai_string_free(text);
}

/* Plays a turn of an "agent" or a "workflow" of this name; `*messages` is the conversation before it and after it. */
static void play_turn(lomusai_engine *engine, json_t *turn, const char *kind, const char *name, json_t **messages, json_t *bound) {
  json_t *request = json_deep_copy(json_object_get(turn, "request"));
  json_t *expect = json_object_get(turn, "expect");
  if (!json_object_get(request, kind)) json_object_set_new(request, kind, json_string(name));
  if (*messages && !json_object_get(request, "thread") && !json_object_get(request, "history"))
    json_object_set(request, "history", *messages);
  char *text = dump(request);
  long seen = 0, cancel_at = (long)json_integer_value(json_object_get(turn, "cancel_at"));
  lomusai_run *run = NULL;
  lomusai_error *error = NULL;
  const char *refused = json_string_value(json_object_get(expect, "refused"));
  lomusai_status status = lomusai_run_start(engine, text, strlen(text), NULL, &run, &error);
  free(text);
  json_decref(request);
  if (status == LOMUSAI_OK && refused) {
    /* What is found out by looking into the store is the result's error. */
    status = lomusai_run_result(run, 60000, NULL, &error);
    lomusai_run_free(run);
    run = NULL;
  }
  if (status != LOMUSAI_OK || refused) {
    if (!refused || strcmp(lomusai_error_code(error), refused) != 0)
      fault("refused: expected %s, was %s %s", refused ? refused : "no refusal", lomusai_error_code(error), lomusai_error_message(error));
    lomusai_error_free(error);
    return;
  }
  char *id = strdup(lomusai_run_id(run));
  json_object_set_new(bound, "run", json_string(id));
  json_t *pending = json_array();
  json_t *result = read_run(run, &seen, cancel_at);
  json_t *lists = json_object_get(turn, "commands");
  size_t list = 0;
  while (result && strcmp(json_string_value(json_object_get(result, "status")), "suspended") == 0) {
    json_array_append(pending, json_object_get(result, "pending"));
    if (list >= json_array_size(lists)) break;
    json_t *item;
    size_t i;
    json_array_foreach(json_array_get(lists, list), i, item) {
      const char *wanted = json_string_value(json_object_get(item, "refused"));
      const char *code = send_command(engine, id, item, &result, &seen, cancel_at);
      if (strcmp(code, wanted ? wanted : "") != 0) fault("command %zu.%zu: expected refusal `%s`, was `%s`", list, i, wanted ? wanted : "", code);
    }
    list++;
    if (faults[0] != 0) break;
  }
  if (result != NULL) {
    compare_run(engine, expect, id, json_object_get(result, "status"));
    compare(json_object_get(expect, "messages"), json_object_get(result, "messages"), "messages");
    compare(json_object_get(expect, "pending"), pending, "pending");
    const char *child;
    json_t *of_child;
    json_object_foreach(json_object_get(expect, "children"), child, of_child) {
      char child_id[512], *info_text = NULL;
      snprintf(child_id, sizeof child_id, "{\"run_id\":\"%s/%s\"}", id, child);
      if (lomusai_engine_call(engine, "run", child_id, strlen(child_id), &info_text, NULL) != LOMUSAI_OK) {
        fault("child %s is not there", child);
        continue;
      }
      json_t *info = parse(info_text, strlen(info_text));
      lomusai_string_free(info_text);
      snprintf(child_id, sizeof child_id, "%s/%s", id, child);
      compare_run(engine, of_child, child_id, json_object_get(info, "status"));
      json_decref(info);
    }
    json_decref(*messages);
    *messages = json_incref(json_object_get(result, "messages"));
  }
  json_decref(result);
  json_decref(pending);
  free(id);
}

/* --- Operations ---------------------------------------------------------------------------------------------------- */

/* With what was bound in the place of its name. */
static json_t *with(json_t *value, json_t *bound) {
  const char *key;
  json_t *item, *made;
  size_t i;
  if (json_is_string(value) && json_string_value(value)[0] == '$') {
    json_t *found = json_object_get(bound, json_string_value(value) + 1);
    return json_incref(found ? found : value);
  }
  if (json_is_object(value)) {
    made = json_object();
    json_object_foreach(value, key, item) json_object_set_new(made, key, with(item, bound));
    return made;
  }
  if (json_is_array(value)) {
    made = json_array();
    json_array_foreach(value, i, item) json_array_append_new(made, with(item, bound));
    return made;
  }
  return json_incref(value);
}

static void replace_workflow(lomusai_engine *engine, json_t *spec) {
  lomusai_error *error = NULL;
  char *text = dump(spec);
  if (lomusai_unregister(engine, "workflow", json_string_value(json_object_get(spec, "name")), NULL, &error) != LOMUSAI_OK ||
      lomusai_register_workflow(engine, text, strlen(text), &error) != LOMUSAI_OK)
    fault("replace_workflow: %s", lomusai_error_message(error));
  lomusai_error_free(error);
  free(text);
}

/* Asks the engine something by name; gives names to parts of the answer. */
static void ask(lomusai_engine *engine, json_t *item, json_t *bound) {
  lomusai_error *error = NULL;
  const char *operation = json_string_value(json_object_get(item, "call")), *name;
  const char *wanted = json_string_value(json_object_get(item, "error")), *begins = json_string_value(json_object_get(item, "begins"));
  json_t *params = json_object_get(item, "params"), *pointer;
  static const char *const known[] = {"call", "params", "expect", "begins", "error", "bind", "replace_workflow"};
  json_object_foreach(item, name, pointer) {
    bool found = false;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) found |= strcmp(name, known[k]) == 0;
    if (!found) fault("a call has an unknown field `%s`", name);
  }
  if (operation == NULL) {
    replace_workflow(engine, json_object_get(item, "replace_workflow"));
    return;
  }
  params = params ? with(params, bound) : json_object();
  char *text = dump(params), *answered = NULL;
  json_decref(params);
  lomusai_status status = lomusai_engine_call(engine, operation, text, strlen(text), &answered, &error);
  free(text);
  if (status != LOMUSAI_OK || wanted) {
    if (!wanted || strcmp(lomusai_error_code(error), wanted) != 0)
      fault("%s: expected error `%s`, was `%s` %s", operation, wanted ? wanted : "", lomusai_error_code(error), lomusai_error_message(error));
    lomusai_error_free(error);
    lomusai_string_free(answered);
    return;
  }
  json_t *answer = parse(answered, strlen(answered));
  lomusai_string_free(answered);
  json_object_foreach(json_object_get(item, "bind"), name, pointer) {
    json_object_set(bound, name, at(answer, json_string_value(pointer)));
  }
  if (json_object_get(item, "expect")) {
    json_t *expected = with(json_object_get(item, "expect"), bound);
    compare(expected, answer, operation);
    json_decref(expected);
  }
  if (begins && (!json_is_string(answer) || strncmp(json_string_value(answer), begins, strlen(begins)) != 0))
    fault("%s: the answer does not begin with %s", operation, begins);
  json_decref(answer);
}

/* --- A vector ------------------------------------------------------------------------------------------------------ */

static void must(lomusai_status status, lomusai_error **error, const char *what) {
  if (status != LOMUSAI_OK) fault("%s: %s", what, lomusai_error_message(*error));
  lomusai_error_free(*error);
  *error = NULL;
}

/* Registers a workflow; gives the code of the refusal, "" for none. */
static const char *register_workflow(lomusai_engine *engine, json_t *spec) {
  static char code[128];
  lomusai_error *error = NULL;
  json_t *workflow = json_copy(spec);
  if (!json_object_get(workflow, "name")) json_object_set_new(workflow, "name", json_string("workflow"));
  char *text = dump(workflow);
  lomusai_register_workflow(engine, text, strlen(text), &error);
  snprintf(code, sizeof code, "%s", lomusai_error_code(error));
  lomusai_error_free(error);
  free(text);
  json_decref(workflow);
  return code;
}

static void register_agent(lomusai_engine *engine, json_t *spec) {
  lomusai_error *error = NULL;
  json_t *agent = spec ? json_copy(spec) : json_object();
  if (!json_object_get(agent, "name")) json_object_set_new(agent, "name", json_string("agent"));
  if (!json_object_get(agent, "model")) json_object_set_new(agent, "model", json_string("model"));
  char *text = dump(agent);
  must(lomusai_register_agent(engine, text, strlen(text), &error), &error, "agent");
  free(text);
  json_decref(agent);
}

static void behave(lomusai_engine *engine, int of, const char *name, json_t *spec, json_t *does) {
  lomusai_error *error = NULL;
  struct behaviour *behaviour = malloc(sizeof *behaviour);
  behaviour->does = does;
  behaviour->of = of;
  if (of == STEP) {
    must(lomusai_register_step(engine, name, LOMUSAI_POOL, call, behaviour, drop_behaviour, &error), &error, "step");
  } else if (of == TOOL) {
    char *text = dump(spec);
    must(lomusai_register_tool(engine, text, strlen(text), LOMUSAI_POOL, call, behaviour, drop_behaviour, &error), &error, "tool");
    free(text);
  } else {
    must(lomusai_register_function(engine, name, LOMUSAI_POOL, call, behaviour, drop_behaviour, &error), &error, "function");
  }
}

static void play(json_t *vector) {
  static const char *const known[] = {"name", "why", "agent", "agents", "models", "tools", "functions",
                                      "request", "commands", "cancel_at", "expect", "turns", "workflow", "workflows", "steps", "refused_spec", "calls"};
  lomusai_engine *engine = NULL;
  lomusai_error *error = NULL;
  const char *key;
  json_t *value, *messages = NULL, *bound = json_object();
  size_t i;
  json_object_foreach(vector, key, value) {
    bool found = false;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) found |= strcmp(key, known[k]) == 0;
    if (!found) fault("unknown field `%s`", key);
  }
  must(lomusai_engine_open(NULL, &engine, &error), &error, "engine");
  json_object_foreach(json_object_get(vector, "models"), key, value) {
    json_t *config = json_pack("{s:s,s:O}", "type", "scripted", "script", value);
    char *text = dump(config);
    must(lomusai_register_builtin_provider(engine, key, text, strlen(text), &error), &error, "model");
    free(text);
    json_decref(config);
  }
  json_array_foreach(json_object_get(vector, "tools"), i, value) {
    behave(engine, TOOL, NULL, json_object_get(value, "spec"), json_object_get(value, "does"));
  }
  json_object_foreach(json_object_get(vector, "functions"), key, value) behave(engine, FUNCTION, key, NULL, value);
  json_object_foreach(json_object_get(vector, "steps"), key, value) behave(engine, STEP, key, NULL, value);
  json_array_foreach(json_object_get(vector, "agents"), i, value) register_agent(engine, value);
  json_array_foreach(json_object_get(vector, "workflows"), i, value) {
    if (*register_workflow(engine, value)) fault("workflows: one was refused");
  }
  json_t *workflow = json_object_get(vector, "workflow");
  const char *kind = workflow ? "workflow" : "agent";
  const char *name = json_string_value(json_object_get(json_object_get(vector, kind), "name"));
  const char *refused = json_string_value(json_object_get(vector, "refused_spec"));
  if (workflow) {
    const char *code = register_workflow(engine, workflow);
    if (strcmp(code, refused ? refused : "") != 0) fault("spec: expected refusal `%s`, was `%s`", refused ? refused : "", code);
  } else {
    register_agent(engine, json_object_get(vector, "agent"));
  }
  if (faults[0] == 0 && !refused) play_turn(engine, vector, kind, name ? name : kind, &messages, bound);
  json_array_foreach(json_object_get(vector, "turns"), i, value) {
    if (faults[0] == 0) play_turn(engine, value, kind, name ? name : kind, &messages, bound);
  }
  json_array_foreach(json_object_get(vector, "calls"), i, value) {
    if (faults[0] == 0) ask(engine, value, bound);
  }
  json_decref(bound);
  json_decref(messages);
  must(lomusai_engine_close(engine, 10000, &error), &error, "close");
  lomusai_engine_free(engine);
}

static int is_vector(const struct dirent *entry) {
  size_t len = strlen(entry->d_name);
  return len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0;
}

/* Runs the vectors of a folder whose file names contain `wanted`. `false` where it cannot be read. */
static bool play_folder(const char *folder, const char *wanted, int *passed, int *failed) {
  struct dirent **entries;
  int count = scandir(folder, &entries, is_vector, alphasort);
  if (count < 0) {
    printf("%s cannot be read\n", folder);
    return false;
  }
  if (count == 0) {
    printf("%s has no vectors\n", folder);
    free(entries);
    return false;
  }
  for (int i = 0; i < count; i++) {
    char path[4096];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
    bool skipped = strstr(entries[i]->d_name, wanted) == NULL;
    free(entries[i]);
    if (skipped) continue;
    json_t *vector = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (vector == NULL) vector = json_load_file(path, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    faults[0] = 0;
    if (vector == NULL)
      fault("%s: %s", path, error.text);
    else
      play(vector);
    const char *name = json_string_value(json_object_get(vector, "name"));
    printf("%s %s\n%s", faults[0] ? "FAILED" : "ok", name ? name : path, faults);
    fflush(stdout);
    if (faults[0])
      ++*failed;
    else
      ++*passed;
    json_decref(vector);
  }
  free(entries);
  return true;
}

int main(int argc, char **argv) {
  const char *folder = getenv("LOMUSAI_VECTORS"), *wanted = argc < 2 ? "" : argv[1];
  int passed = 0, failed = 0;
  bool read = folder != NULL ? play_folder(folder, wanted, &passed, &failed)
                             : play_folder("tests/conformance/agent", wanted, &passed, &failed) &&
                                   play_folder("tests/conformance/workflow", wanted, &passed, &failed) &&
                                   play_folder("tests/conformance/operations", wanted, &passed, &failed);
  printf("%d passed, %d failed\n", passed, failed);
  return read && failed == 0 && passed > 0 ? 0 : 1;
}
