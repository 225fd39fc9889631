// Closes what cpu/isa_begin.h opened.
#if defined(XRISK_TARGET) && defined(__clang__)
#pragma clang attribute pop
#endif
