/* percent.c - %-escapes of locations, keys and tokens. */
#include "store/store_impl.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const char *plm_percent_decode(char *text, bool is_strict)
{
    char *to = text;

    for (const char *at = text; *at; at++) {
        int high = *at == '%' ? hex_digit(at[1]) : -1;
        int low = high < 0 ? -1 : hex_digit(at[2]);

        if ((high == 0 && low == 0) || (is_strict && *at == '%' && low < 0))
            return at;
        *to++ = low < 0 ? *at : (char)(high * 16 + low);
        at += low < 0 ? 0 : 2;
    }
    *to = '\0';
    return NULL;
}
