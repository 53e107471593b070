"""What several sections share."""

from wound_jax.report.blocks import Column
from wound_jax.report.load import Study


def variant_column(study: Study) -> Column:
    """The column that names the variant; of a single one the page does without."""
    return Column("variant", "variant", place="page" if len(study.variants) > 1 else "file")
