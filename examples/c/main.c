/* Multiplies on the accelerator, compares each sum with the product in C, and lets it refuse a wrong program. */
#include <stdio.h>
#include <string.h>

#include "flexcim_accelerator.h"
#include "job.h" /* written by run.py: the job, and the matrix and the vectors that it was made of */
#include "multiply.h"

static int32_t product(int vector, int output) {
  int32_t sum = 0;
  for (int input = 0; input < INPUTS; input++) sum += matrix[output][input] * vectors[vector][input];
  return sum;
}

/* The results come part by part: for each of its vectors, for each of its tiles, a tile's outputs and some padding. */
static int wrong_sums(const int32_t *results) {
  int wrong = 0;
  for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
    for (int vector = parts[p].first_vector; vector < parts[p].first_vector + parts[p].vectors; vector++)
      for (int tile = 0; tile < parts[p].tiles; tile++, results += TILE_SUMS)
        for (int j = 0; j < TILE_OUTPUTS; j++) {
          const int output = parts[p].first_output + tile * TILE_OUTPUTS + j;
          if (output >= OUTPUTS || results[j] == product(vector, output)) continue;
          if (!wrong++)
            printf("output %d of vector %d is %ld, but must be %ld\n", output, vector, (long)results[j],
                   (long)product(vector, output));
        }
  return wrong;
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* in order with the errors, also in a file */
  static int32_t results[RESULT_BYTES / sizeof(int32_t)];
  if (multiply(&job, results) || wrong_sums(results)) return 1;
  printf("%d x %d weights times %d vectors: all sums are right\n", OUTPUTS, INPUTS, VECTORS);

  uint32_t wrong_program[sizeof program / sizeof *program];
  memcpy(wrong_program, program, sizeof program);
  flexcim_accelerator_set(wrong_program, FLEXCIM_ACCELERATOR_LOAD_MACRO_LOW, FLEXCIM_ACCELERATOR_LOAD_MACRO_WIDTH, 255);
  struct job wrong_job = job;
  wrong_job.program = wrong_program;
  if (multiply(&wrong_job, results) != FLEXCIM_ACCELERATOR_KIND_MACROS) return 1;
  printf("a load of a macro that is not there was refused\n");

  memset(results, 0, sizeof results);
  if (multiply(&job, results) || wrong_sums(results)) return 1;
  printf("after the reset all sums are right again\n");
  return 0;
}
