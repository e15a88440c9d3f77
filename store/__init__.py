"""The teacher cache: schema, plan, writer, reader."""
