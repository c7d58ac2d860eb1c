--
-- PostgreSQL database dump
--

\restrict abc

-- Dumped from database version 17.6
SET statement_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET row_security = off;

CREATE SCHEMA cron;
CREATE EXTENSION IF NOT EXISTS pg_cron WITH SCHEMA pg_catalog;
COMMENT ON EXTENSION pg_cron IS 'Job scheduler for PostgreSQL';
CREATE EXTENSION IF NOT EXISTS postgis WITH SCHEMA public VERSION '3.4.2';
CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;
SET default_tablespace = fast;
SET default_table_access_method = heap;
CREATE TABLE public.places (
    id bigint NOT NULL,
    name text COLLATE pg_catalog."de_DE.utf8" NOT NULL,
    geom public.geometry(Point,4326),
    area double precision GENERATED ALWAYS AS (public.st_area(geom)) STORED,
    embedding public.vector(1536),
    slug text DEFAULT public.nanoid(12) NOT NULL,
    kind text DEFAULT 'x'::text NOT NULL,
    CONSTRAINT enforce_srid CHECK ((public.st_srid(geom) = 4326)),
    CONSTRAINT names CHECK ((length(name) > 0))
);
ALTER TABLE public.places OWNER TO gis_owner;
CREATE SEQUENCE public.places_id_seq AS integer START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1;
ALTER TABLE ONLY public.places ALTER COLUMN id SET DEFAULT nextval('public.places_id_seq'::regclass);
ALTER TABLE ONLY public.places ADD CONSTRAINT places_pkey PRIMARY KEY (id);
CREATE INDEX places_geom ON public.places USING gist (geom);
CREATE INDEX places_embedding ON public.places USING hnsw (embedding public.vector_cosine_ops) WITH (m='16');
CREATE VIEW public.near AS SELECT id, public.st_x(geom) AS x FROM public.places;
CREATE VIEW public.nearer AS SELECT * FROM public.near;
CREATE FUNCTION public.py() RETURNS trigger LANGUAGE plpython3u AS $$ return "OK" $$;
CREATE TRIGGER py BEFORE INSERT ON public.places FOR EACH ROW EXECUTE FUNCTION public.py();
CREATE TABLE public.hyper (at timestamptz not null) TABLESPACE slow;
CREATE TRIGGER ts_insert_blocker BEFORE INSERT ON public.hyper FOR EACH ROW EXECUTE FUNCTION _timescaledb_functions.insert_blocker();
CREATE TABLE public.col (id int) USING columnar;
CREATE TEXT SEARCH CONFIGURATION public.de (PARSER = pg_catalog."default");
SECURITY LABEL FOR anon ON COLUMN public.places.name IS 'MASKED';
COPY cron.job (jobid, schedule) FROM stdin;
1	* * * * *
\.
SELECT pg_catalog.setval('cron.jobid_seq', 1, true);
SELECT public.create_hypertable('hyper', 'at');
\unrestrict abc
