// Prints a greeting, the arguments and the environment, as the text guest `hello` does.
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
    puts("hello from C");
    for (int i = 0; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (char **pair = environ; *pair; pair++)
        printf("env %s\n", *pair);
    return 0;
}
