"""Every test run checks the shapes in the signatures: jaxtyping + beartype on import."""

from jaxtyping import install_import_hook

install_import_hook(
    ["commands", "frames", "store", "nets", "runs", "teacher_dump", "student_train"], "beartype.beartype"
)
