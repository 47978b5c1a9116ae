"""The register map as a C header, a Python driver and a Markdown table, all of `flexcim.accelerator.registers`."""

from __future__ import annotations

from collections.abc import Iterator
from string import Template

from flexcim.accelerator.instructions import INSTRUCTION_FIELDS, AcceleratorError, Opcode
from flexcim.accelerator.registers import REGISTERS, Field, Register, constant_fields
from flexcim.config.accelerator import AcceleratorConfig

__all__ = ["c_header", "markdown", "python_driver"]

_RESET = "After rst every field is 0, but for those whose value is given."

_ACCESS = {"ro": "read only", "rw": "read and write", "wo": "write only"}


def _bits(field: Field) -> str:
    return str(field.low) if field.width == 1 else f"{field.low + field.width - 1}:{field.low}"


# -- C -----------------------------------------------------------------------------------------------------------------


def c_header(config: AcceleratorConfig, name: str) -> str:
    """The C header: addresses, fields, error kinds, instructions, and functions that use them.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    name : str
        What all names of the header begin with.
    """
    upper = name.upper()
    lines = [
        f"/* {name}: registers and instructions of a FlexCiM accelerator; generated.",
        f"   {_RESET} */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "",
        "#include <stdint.h>",
        "",
    ]
    for register in REGISTERS:
        lines += _c_register(config, upper, register)
    lines += [f"/* {upper}_ERROR_KIND */"]
    lines += [f"#define {upper}_KIND_{kind.name} {int(kind)}u" for kind in AcceleratorError]
    lines += ["", "/* Instructions: 128 bits, four words of 32, the lowest first. */"]
    for op, fields in INSTRUCTION_FIELDS.items():
        lines.append(f"#define {upper}_OP_{op.name} {int(op)}u")
        for field, (start, width) in fields.items():
            if field != "op":
                lines.append(f"#define {upper}_{op.name}_{field.upper()}_LOW {start}")
                lines.append(f"#define {upper}_{op.name}_{field.upper()}_WIDTH {width}")
    kinds = ", ".join(f'"{kind.name.lower()}"' for kind in AcceleratorError)
    return "\n".join([*lines, "", _C_FUNCTIONS.substitute(name=name, NAME=upper, kinds=kinds), "#endif", ""])


def _c_register(config: AcceleratorConfig, upper: str, register: Register) -> Iterator[str]:
    constants = constant_fields(config)
    prefix = f"{upper}_{register.name}"
    yield f"/* {register.meaning} ({_ACCESS[register.access]}) */"
    yield f"#define {prefix} {register.address:#04x}u"
    for field in register.fields:
        yield f"#define {prefix}_{field.name.upper()}_LOW {field.low} /* {field.meaning} */"
        yield f"#define {prefix}_{field.name.upper()}_MASK {field.mask:#010x}u"
        if (register.name, field.name) in constants:
            yield f"#define {prefix}_{field.name.upper()}_VALUE {constants[register.name, field.name]:#x}u"
    yield ""


_C_FUNCTIONS = Template("""\
/* The caller's access to the registers: a 32-bit read and write at a byte address. */
typedef struct {
  uint32_t (*read)(void *context, uint32_t address);
  void (*write)(void *context, uint32_t address, uint32_t value);
  void *context;
} ${name}_bus;

/* Sets a field, given by its LOW and WIDTH, of an instruction whose field is still 0. */
static inline void ${name}_set(uint32_t instruction[4], unsigned low, unsigned width, uint32_t value) {
  instruction[low / 32] |= (value & (uint32_t)((UINT64_C(1) << width) - 1)) << low % 32;
}

/* Writes instructions, four words each, into the program memory from the place `entry` on. */
static inline void ${name}_write_program(const ${name}_bus *bus, uint32_t entry, const uint32_t *words,
                                         uint32_t count) {
  bus->write(bus->context, ${NAME}_PROGRAM_ADDRESS, 4 * entry);
  for (uint32_t i = 0; i < 4 * count; i++) bus->write(bus->context, ${NAME}_PROGRAM_DATA, words[i]);
}

/* Starts the program at the place `entry`. */
static inline void ${name}_start(const ${name}_bus *bus, uint32_t entry) {
  bus->write(bus->context, ${NAME}_PROGRAM_ENTRY, entry);
  bus->write(bus->context, ${NAME}_CONTROL, ${NAME}_CONTROL_START_MASK);
}

/* Waits until the program has ended; returns the error's kind, 0 if there was none. */
static inline uint32_t ${name}_wait(const ${name}_bus *bus) {
  uint32_t status;
  do status = bus->read(bus->context, ${NAME}_STATUS);
  while (!(status & (${NAME}_STATUS_DONE_MASK | ${NAME}_STATUS_ERROR_MASK)));
  return bus->read(bus->context, ${NAME}_ERROR) & ${NAME}_ERROR_KIND_MASK;
}

/* Returns the name of an error's kind. */
static inline const char *${name}_kind_name(uint32_t kind) {
  static const char *const names[] = {${kinds}};
  return kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

/* Resets the accelerator, after an error. */
static inline void ${name}_reset(const ${name}_bus *bus) {
  bus->write(bus->context, ${NAME}_CONTROL, ${NAME}_CONTROL_RESET_MASK);
}
""")


# -- Python ------------------------------------------------------------------------------------------------------------


def python_driver(config: AcceleratorConfig, name: str) -> str:
    """A Python module of its own: addresses and fields, and a driver over two functions that read and write.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    name : str
        Its name, for the module's docstring.
    """
    constants = constant_fields(config)
    lines = [
        f'"""{name}: driver of a FlexCiM accelerator\'s registers; generated.',
        "",
        f'{_RESET}\n"""',
        "",
        "REGISTERS = {",
    ]
    for register in REGISTERS:
        lines.append(f'    "{register.name}": ({register.address:#04x}, "{register.access}"),  # {register.meaning}')
    lines += ["}", '"""Address in bytes and access of each register."""', "", "FIELDS = {"]
    for register in REGISTERS:
        for field in register.fields:
            lines.append(f'    ("{register.name}", "{field.name}"): ({field.low}, {field.width}),  # {field.meaning}')
    lines += ["}", '"""Lowest bit and width of each field."""', "", "CONSTANTS = {"]
    lines += [f'    ("{register}", "{field}"): {value:#x},' for (register, field), value in constants.items()]
    lines += ["}", '"""Fields whose value the configuration gives."""', "", "ERRORS = {"]
    lines += [f'    {int(kind)}: "{kind.name.lower()}",' for kind in AcceleratorError]
    return "\n".join([*lines, "}", '"""Kinds of ERROR.kind."""', "", "", _PYTHON_DRIVER])


_PYTHON_DRIVER = '''\
class Driver:
    """Drives the accelerator through ``read(address)`` and ``write(address, value)``."""

    def __init__(self, read, write):
        self._read, self._write = read, write

    def get(self, register, field):
        """The value of a field."""
        low, width = FIELDS[register, field]
        return self._read(REGISTERS[register][0]) >> low & ((1 << width) - 1)

    def put(self, register, **fields):
        """Write a register; fields that are not given are 0."""
        value = 0
        for field, number in fields.items():
            low, width = FIELDS[register, field]
            if not 0 <= number < 1 << width:
                raise ValueError(f"{register}.{field} must fit {width} bits, not {number}")
            value |= number << low
        self._write(REGISTERS[register][0], value)

    def check(self):
        """Raise RuntimeError unless this is the accelerator that the driver was made for."""
        for (register, field), value in CONSTANTS.items():
            found = self.get(register, field)
            if found != value:
                raise RuntimeError(f"{register}.{field} must be {value:#x}, not {found:#x}")

    def write_program(self, words, entry=0):
        """Write 32-bit words into the program memory from an instruction's place on."""
        self.put("PROGRAM_ADDRESS", word=4 * entry)
        for word in words:
            self.put("PROGRAM_DATA", word=int(word))

    def start(self, entry=0):
        """Start the program at this place."""
        self.put("PROGRAM_ENTRY", instruction=entry)
        self.put("CONTROL", start=1)

    def wait(self):
        """Wait until the program has ended; returns its cycles.

        Raises RuntimeError, with the kind, if there is an error.
        """
        while not self.get("STATUS", "done"):
            if self.get("STATUS", "error"):
                raise RuntimeError(f"the accelerator stopped: {ERRORS[self.get('ERROR', 'kind')]}")
        return self.get("CYCLES", "count")

    def reset(self):
        """Reset the accelerator, after an error."""
        self.put("CONTROL", reset=1)
'''


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(config: AcceleratorConfig, name: str) -> str:
    """The register map as a page of Markdown.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    name : str
        Its name, for the title.
    """
    constants = constant_fields(config)
    lines = [
        f"# {name}: registers",
        "",
        f"Generated. Addresses count bytes; bits that are not named read as 0. {_RESET}",
        "",
    ]
    lines += ["| address | register | access | bits | field | meaning |", "|---|---|---|---|---|---|"]
    for register in REGISTERS:
        lines.append(
            f"| `{register.address:#04x}` | **{register.name}** | {_ACCESS[register.access]} | | | {register.meaning} |"
        )
        for field in register.fields:
            value = constants.get((register.name, field.name))
            here = "" if value is None else f"; here {value:#x}"
            lines.append(f"| | | | {_bits(field)} | `{field.name}` | {field.meaning}{here} |")
    lines += ["", "## Error kinds", "", "| ERROR.kind | name |", "|---|---|"]
    lines += [f"| {int(kind)} | `{kind.name.lower()}` |" for kind in AcceleratorError]
    lines += ["", "## Instructions", "", "| op | instruction | fields (bits of 128) |", "|---|---|---|"]
    for op in Opcode:
        fields = [
            f"`{field}` {start}" if width == 1 else f"`{field}` {start + width - 1}:{start}"
            for field, (start, width) in INSTRUCTION_FIELDS[op].items()
        ]
        lines.append(f"| {int(op)} | {op.name} | {', '.join(fields)} |")
    return "\n".join([*lines, ""])
