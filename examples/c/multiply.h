/* A matrix times some vectors, as a program of the accelerator. */
#ifndef MULTIPLY_H
#define MULTIPLY_H

#include <stddef.h>
#include <stdint.h>

/* What is in the files that `flexcim compile` writes, and the vectors in the order that its schedule.json says. */
struct job {
  const uint32_t *program;
  uint32_t instructions;
  const void *weights, *activations;
  size_t weight_bytes, activation_bytes, result_bytes;
};

/* Carries a job out; returns 0, or the kind of the accelerator's error. */
uint32_t multiply(const struct job *job, int32_t *results);

#endif
