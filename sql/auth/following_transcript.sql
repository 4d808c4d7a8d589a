-- auth.following_transcript: computes the transcript of an identity after a commit (AS-3), as protocol/src/eid.rs does.
--
--   transcript: the one before, 32 bytes
--   commit: an MLSMessage
--
-- Called by auth.append_commit, and by the trigger of auth.incarnations.
CREATE OR REPLACE FUNCTION auth.following_transcript(transcript bytea, commit bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN sha256('Postern EID commit'::bytea || '\x00'::bytea || following_transcript.transcript
                  || following_transcript.commit);
END
$$;
