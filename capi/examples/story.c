/* Tells a story, then answers within a JSON schema.
 *
 * cargo build --release -p vkllm-capi
 * cc -Icapi/include capi/examples/story.c -Ltarget/release -lvkllm_c -o story && LD_LIBRARY_PATH=target/release ./story MODEL.gguf
 */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "vkllm.h"

static void check(vkllm_status status) {
    if (status != VKLLM_STATUS_OK) {
        fprintf(stderr, "%s\n", vkllm_error());
        exit(EXIT_FAILURE);
    }
}

static bool print(void *user, const vkllm_token *token) {
    size_t *bytes = user;
    *bytes += fwrite(token->text, 1, token->text_length, stdout);
    return fflush(stdout) == 0;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "which model file?\n");
        return EXIT_FAILURE;
    }
    vkllm_device *device;
    vkllm_model *model;
    vkllm_session *session;
    check(vkllm_device_open(NULL, NULL, &device));
    check(vkllm_model_open(device, arguments[1], NULL, &model));
    check(vkllm_session_new(model, NULL, &session));

    const char *prompt = "Once upon a time";
    size_t tokens;
    check(vkllm_tokenize(model, prompt, true, NULL, 0, &tokens));
    uint32_t *ids = malloc(tokens * sizeof *ids);
    if (!ids)
        return EXIT_FAILURE;
    check(vkllm_tokenize(model, prompt, true, ids, tokens, &tokens));

    vkllm_generate_options options = vkllm_generate_options_default();
    size_t bytes = 0;
    options.max_tokens = 48;
    fputs(prompt, stdout);
    check(vkllm_generate(session, model, ids, tokens, &options, print, &bytes, NULL));
    puts("");

    check(vkllm_session_rewind(session, 0));
    vkllm_finish finish;
    options.json_schema = "{\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"happy\"], "
                          "\"properties\": {\"happy\": {\"type\": \"boolean\"}}}";
    check(vkllm_generate(session, model, ids, tokens, &options, print, &bytes, &finish));
    puts("");

    free(ids);
    vkllm_session_free(session);
    vkllm_model_free(model);
    vkllm_device_free(device);
    return bytes > 0 && finish == VKLLM_FINISH_END ? EXIT_SUCCESS : EXIT_FAILURE;
}
