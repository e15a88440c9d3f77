"""What the commands of stage 1 take where nothing is asked for."""

OWN_TEACHER = "teacher_dump.teachers:from_checkpoint"
# One step of TensorFloat-32 (10 bits of fraction), in which other hardware may multiply.
TOLERANCE = 2.0**-10
