/* vkllm: large language models through Vulkan compute. Written by cbindgen from capi/src; do not edit. */

#ifndef VKLLM_H
#define VKLLM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/**
 * How a call ended. After anything but VKLLM_STATUS_OK, vkllm_error() says why.
 */
typedef enum vkllm_status {
  /**
   * It worked.
   */
  VKLLM_STATUS_OK = 0,
  /**
   * An argument, an option or a file cannot be used.
   */
  VKLLM_STATUS_INPUT = 1,
  /**
   * The device failed or was lost.
   */
  VKLLM_STATUS_DEVICE = 2,
  /**
   * There is less room than what is to be written needs; the count says how much.
   */
  VKLLM_STATUS_ROOM = 3,
  /**
   * A bug in vkllm. Handles that the call could change must not be used again, but to be freed.
   */
  VKLLM_STATUS_BUG = 4,
} vkllm_status;

/**
 * Why a generation ended.
 */
typedef enum vkllm_finish {
  /**
   * The model ended the text, or a constraint was fulfilled and allows no more.
   */
  VKLLM_FINISH_END = 0,
  /**
   * The wanted number of tokens is there.
   */
  VKLLM_FINISH_LENGTH = 1,
  /**
   * The context is full.
   */
  VKLLM_FINISH_CONTEXT = 2,
  /**
   * A text at which to stop was there.
   */
  VKLLM_FINISH_STOP = 3,
  /**
   * The callback returned false, or a cancel token was cancelled.
   */
  VKLLM_FINISH_CANCELLED = 4,
} vkllm_finish;

/**
 * Ends a generation from another thread.
 */
typedef struct vkllm_cancel vkllm_cancel;

/**
 * A device.
 */
typedef struct vkllm_device vkllm_device;

/**
 * A loaded model. Any number of threads may use it.
 */
typedef struct vkllm_model vkllm_model;

/**
 * A conversation. One thread at a time may use it.
 */
typedef struct vkllm_session vkllm_session;

/**
 * Gets the bytes of weights that were read, and all that are to be; false ends the load.
 */
typedef bool (*vkllm_on_progress)(void *user, uint64_t done, uint64_t total);

/**
 * How a model is opened. vkllm_model_options_default() fills it.
 */
typedef struct vkllm_model_options {
  /**
   * Positions a session can hold; 0: the model's, at most 4096.
   */
  uint32_t context;
  /**
   * Most rows of one step.
   */
  uint32_t batch;
  /**
   * Sessions that can exist at once.
   */
  uint32_t sessions;
  /**
   * Called from any thread, also from several at once; may be null.
   */
  vkllm_on_progress on_progress;
  /**
   * Handed to on_progress.
   */
  void *user;
} vkllm_model_options;

/**
 * A message of a conversation.
 */
typedef struct vkllm_message {
  /**
   * "system", "user", "assistant" or "tool".
   */
  const char *role;
  /**
   * UTF-8, ends with 0. It never becomes a control token.
   */
  const char *content;
} vkllm_message;

/**
 * How tokens are chosen. vkllm_sampler_default() fills it. Truncations look at probabilities at temperature 1.
 */
typedef struct vkllm_sampler {
  /**
   * 0 or less: always the most likely token.
   */
  float temperature;
  /**
   * Keep the k most likely tokens; 0 keeps all.
   */
  uint32_t top_k;
  /**
   * Of those keep the fewest whose probabilities reach this share of their sum; 1 keeps all.
   */
  float top_p;
  /**
   * Of those keep the ones at least this share as likely as the most likely one; 0 keeps all.
   */
  float min_p;
  uint64_t seed;
  /**
   * Divides positive logits of recent tokens and multiplies others; 1 is off.
   */
  float repeat_penalty;
  /**
   * Lowers the logit of a recent token, for each time it occurred.
   */
  float frequency_penalty;
  /**
   * Lowers the logit of a recent token, once.
   */
  float presence_penalty;
  /**
   * How many tokens are recent; 0 switches the penalties off.
   */
  uint32_t repeat_last_n;
} vkllm_sampler;

/**
 * What to generate. vkllm_generate_options_default() fills it. Of json_schema, regex and grammar one at most is not null.
 */
typedef struct vkllm_generate_options {
  /**
   * Tokens at most; 0 until the model ends the text or the context is full.
   */
  size_t max_tokens;
  /**
   * Go on when the model ends the text.
   */
  bool ignore_end;
  /**
   * JSON schema that the text must follow, or null.
   */
  const char *json_schema;
  /**
   * Regular expression that must match the text from begin to end, or null.
   */
  const char *regex;
  /**
   * Grammar that the text must follow, in llguidance's variant of Lark, or null.
   */
  const char *grammar;
  /**
   * Texts before the first of which the generation ends.
   */
  const char *const *stop;
  /**
   * How many there are.
   */
  size_t stop_count;
  /**
   * Ends the generation from another thread, or null.
   */
  const struct vkllm_cancel *cancel;
} vkllm_generate_options;

/**
 * A generated token. What it points to is there while the callback runs.
 */
typedef struct vkllm_token {
  uint32_t id;
  /**
   * Natural logarithm of its probability at temperature 1, before truncation.
   */
  float logprob;
  /**
   * Text that became complete with it, UTF-8, ends with 0; empty in the middle of a character. A text may contain the
   * character 0; text_length counts it.
   */
  const char *text;
  /**
   * Bytes of the text.
   */
  size_t text_length;
  /**
   * Whether it was drafted.
   */
  bool drafted;
  /**
   * Whether this is no token but text that was held back until the end.
   */
  bool last;
} vkllm_token;

/**
 * Gets every token; false ends the generation. Must return, and not call functions of the same session.
 */
typedef bool (*vkllm_on_token)(void *user, const struct vkllm_token *token);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of this library. Never freed.
 */
const char *vkllm_version(void);

/**
 * Why the last call of this thread failed, as a sentence. It is there until this thread's next call.
 */
const char *vkllm_error(void);

/**
 * Opens a device: a part of its name, or "reference" (the CPU interpreter), or null for the most capable one. Compiled
 * kernels are kept in the folder `cache`, unless it is null.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_device_open(const char *name,
                                    const char *cache,
                                    struct vkllm_device **out);

/**
 * Frees a device handle. Models that use the device keep it.
 *
 * # Safety
 * Null or a handle that is not used again.
 */
void vkllm_device_free(struct vkllm_device *device);

/**
 * Options as the library would choose them.
 */
struct vkllm_model_options vkllm_model_options_default(void);

/**
 * Opens a GGUF file on a device. `options` may be null.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_model_open(const struct vkllm_device *device,
                                   const char *path,
                                   const struct vkllm_model_options *options,
                                   struct vkllm_model **out);

/**
 * Frees a model handle. Sessions of the model keep it.
 *
 * # Safety
 * Null or a handle that is not used again.
 */
void vkllm_model_free(struct vkllm_model *model);

/**
 * Tokens of the model's vocabulary, 0 for null.
 *
 * # Safety
 * Null or a model.
 */
uint32_t vkllm_model_vocabulary(const struct vkllm_model *model);

/**
 * Positions that a session of the model can hold, 0 for null.
 *
 * # Safety
 * Null or a model.
 */
uint32_t vkllm_model_context(const struct vkllm_model *model);

/**
 * The tokens of a text, with a begin token if the model wants one and `begin` is true. With capacity 0 they are counted.
 *
 * # Safety
 * Pointers are null or point to what they are declared as; `ids` has room for `capacity` ids.
 */
enum vkllm_status vkllm_tokenize(const struct vkllm_model *model,
                                 const char *prompt,
                                 bool begin,
                                 uint32_t *ids,
                                 size_t capacity,
                                 size_t *count);

/**
 * The tokens of a conversation by the chat template of the model's file, up to where the answer begins. With capacity 0
 * they are counted.
 *
 * # Safety
 * Pointers are null or point to what they are declared as; `ids` has room for `capacity` ids.
 */
enum vkllm_status vkllm_chat_tokens(const struct vkllm_model *model,
                                    const struct vkllm_message *messages,
                                    size_t message_count,
                                    uint32_t *ids,
                                    size_t capacity,
                                    size_t *count);

/**
 * Options as the library would choose them.
 */
struct vkllm_sampler vkllm_sampler_default(void);

/**
 * Begins a conversation. `sampler` may be null.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_session_new(const struct vkllm_model *model,
                                    const struct vkllm_sampler *sampler,
                                    struct vkllm_session **out);

/**
 * As vkllm_session_new, with a smaller model of the same vocabulary that drafts; the text is the same. `most` tokens are
 * drafted each round, 0 leaves it to measurements.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_session_new_with_draft(const struct vkllm_model *model,
                                               const struct vkllm_model *draft,
                                               size_t most,
                                               const struct vkllm_sampler *sampler,
                                               struct vkllm_session **out);

/**
 * Frees a conversation.
 *
 * # Safety
 * Null or a handle that is not used again.
 */
void vkllm_session_free(struct vkllm_session *session);

/**
 * Tokens of the conversation so far, 0 for null.
 *
 * # Safety
 * Null or a session that nobody changes meanwhile.
 */
size_t vkllm_session_length(const struct vkllm_session *session);

/**
 * Forgets all tokens but the first `tokens`.
 *
 * # Safety
 * Null or a session that nobody else uses meanwhile.
 */
enum vkllm_status vkllm_session_rewind(struct vkllm_session *session, size_t tokens);

/**
 * Writes the conversation to a file, whole or not at all.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_session_save(const struct vkllm_session *session, const char *path);

/**
 * Goes on from a conversation that was saved, of the same model.
 *
 * # Safety
 * Pointers are null or point to what they are declared as.
 */
enum vkllm_status vkllm_session_restore(struct vkllm_session *session, const char *path);

/**
 * Appends tokens and writes their logits, [count, vocabulary], for which `logits` has room of `capacity` values.
 *
 * # Safety
 * Pointers are null or point to what they are declared as, and to as much.
 */
enum vkllm_status vkllm_forward(struct vkllm_session *session,
                                const uint32_t *ids,
                                size_t count,
                                float *logits,
                                size_t capacity);

/**
 * Options as the library would choose them.
 */
struct vkllm_generate_options vkllm_generate_options_default(void);

/**
 * Appends a prompt and generates. `on_token` gets every token; `options` and `finish` may be null. `model` is the
 * session's, and needed for json_schema, regex and grammar alone. What was handed out before a failure stays in the
 * conversation.
 *
 * # Safety
 * Pointers are null or point to what they are declared as, and to as much.
 */
enum vkllm_status vkllm_generate(struct vkllm_session *session,
                                 const struct vkllm_model *model,
                                 const uint32_t *prompt,
                                 size_t prompt_count,
                                 const struct vkllm_generate_options *options,
                                 vkllm_on_token on_token,
                                 void *user,
                                 enum vkllm_finish *finish);

/**
 * Makes a token that ends generations from another thread.
 */
struct vkllm_cancel *vkllm_cancel_new(void);

/**
 * Ends the generations that were given this token, now and later. Any thread may call it.
 *
 * # Safety
 * Null or a token that is not freed meanwhile.
 */
void vkllm_cancel_now(const struct vkllm_cancel *cancel);

/**
 * Frees a token.
 *
 * # Safety
 * Null or a token that is not used again.
 */
void vkllm_cancel_free(struct vkllm_cancel *cancel);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VKLLM_H */
