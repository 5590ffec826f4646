// Takes memory on request: for every line with a number, grows by so many MiB, touches them all, and says how many there
// are then: "64 MiB"; or, when the host refuses, "refused at 64 MiB". Counts what it grew by, not its first pages.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    unsigned total = 0;
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned more = (unsigned)atoi(line);
        size_t at = __builtin_wasm_memory_grow(0, more * 16);
        if (at == (size_t)-1) {
            printf("refused at %u MiB\n", total);
        } else {
            memset((void *)(at * 65536), 170, (size_t)more << 20);
            total += more;
            printf("%u MiB\n", total);
        }
        fflush(stdout);
    }
    return 0;
}
